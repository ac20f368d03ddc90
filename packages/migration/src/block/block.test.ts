import { type BlockBackend, bufferReader, bufferWriter, createWriteLog, drive, type WriteLog } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { BlockLoader } from './block-load.ts'
import { BlockSaver } from './block-save.ts'

const MiB = 1 << 20

function disk(bytes: Uint8Array, { readOnly = false } = {}) {
  const logs = new Set<WriteLog>()
  const backend: BlockBackend & { logs: Set<WriteLog>; active: boolean } = {
    logs,
    active: false,
    capacityBytes: bytes.length,
    readOnly,
    async read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length))
    },
    async write(offset, from) {
      bytes.set(from, offset)
      for (const log of logs) log.mark(offset, from.length)
    },
    async flush() {},
    async activate() {
      backend.active = true
    },
    trackWrites(granularityBytes) {
      const log = createWriteLog(bytes.length, granularityBytes, () => void logs.delete(log))
      logs.add(log)
      return log
    },
  }
  return backend
}
function pattern(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = i * 5 + (i >> 10)
  return bytes
}
const saverOf = (devices: { name: string; backend: BlockBackend }[], limited = () => false) =>
  new BlockSaver(() => devices, { limited, check: () => {} })
const ALL = { incremental: false, zeroBlocks: false }
const word = (value: number, flags: number) => {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, (BigInt(value) << 9n) | BigInt(flags))
  return [...bytes]
}
const EOS = word(0, 2)

async function load(devices: { name: string; backend: BlockBackend }[], bytes: Uint8Array, sections = 1) {
  const loader = new BlockLoader(() => devices)
  const reader = bufferReader(bytes, 0x100)
  for (let i = 0; i < sections; i++) await drive(reader, loader.load(reader, 1))
  return reader
}

describe('a disk in the stream', () => {
  it('arrives with what the guest wrote meanwhile, and ends where it ends', async () => {
    const source = pattern(3 * MiB + 512)
    const from = disk(source)
    const target = new Uint8Array(3 * MiB + 512)
    const to = disk(target)
    const f = bufferWriter()
    let looks = 0
    // A pass ends after its second chunk.
    const saver = saverOf([{ name: 'hd0', backend: from }], () => ++looks % 2 === 0)
    saver.setup(f, ALL)
    expect([...f.bytes()]).toEqual(EOS)
    expect(saver.progress).toEqual({ transferred: 0, remaining: 3 * MiB + 512, total: 3 * MiB + 512 })
    expect(saver.remainingBytes).toBe(4 * MiB)
    expect(await saver.iterate(f)).toBe(false)
    await from.write(5 * 512, new Uint8Array(512).fill(0xaa)) // was sent
    await from.write(2 * MiB, new Uint8Array(512).fill(0xbb)) // was not
    expect(saver.progress.transferred).toBe(2 * MiB)
    expect(await saver.iterate(f)).toBe(true)
    expect(saver.remainingBytes).toBe(MiB)
    await saver.complete(f)
    saver.cleanup()
    expect([saver.active, from.logs.size]).toEqual([false, 0])
    const bytes = f.bytes()
    expect([...bytes.subarray(-16)]).toEqual([...word(100, 4), ...EOS])
    const reader = await load([{ name: 'hd0', backend: to }], bytes, 3)
    expect(reader.available).toBe(0)
    expect(to.active).toBe(true)
    expect(Buffer.compare(target, source)).toBe(0)
  })

  it('goes with zeros left out, and of several disks each', async () => {
    const zeros = new Uint8Array(2 * MiB)
    const some = pattern(MiB)
    const f = bufferWriter()
    const fixed = disk(pattern(MiB), { readOnly: true })
    const devices = [
      { name: 'a', backend: disk(zeros) },
      { name: 'cd', backend: fixed },
      { name: 'b', backend: disk(some) },
    ]
    const saver = saverOf(devices)
    saver.setup(f, { incremental: false, zeroBlocks: true })
    await saver.complete(f)
    const bytes = f.bytes()
    expect(bytes.length).toBe(MiB + 8 + 3 * (8 + 2) + 4 * 8 + 8)
    expect([...bytes.subarray(8, 18)]).toEqual([...word(0, 9), 1, 0x61])
    const a = new Uint8Array(2 * MiB).fill(9)
    const b = new Uint8Array(MiB)
    await load(
      [
        { name: 'a', backend: disk(a) },
        { name: 'b', backend: disk(b) },
      ],
      bytes,
      2,
    )
    expect(Buffer.compare(a, zeros)).toBe(0)
    expect(Buffer.compare(b, some)).toBe(0)
  })

  it('with -i leaves what is in the image below', async () => {
    const backend = disk(pattern(8 * MiB))
    // One and a half chunks are below: the half one goes.
    backend.runAt = async (offset, bytes) =>
      offset < MiB * 4.5 ? { bytes: MiB * 4.5 - offset, kind: 'backing' } : { bytes, kind: 'data' }
    const f = bufferWriter()
    const saver = saverOf([{ name: 'a', backend }])
    saver.setup(f, { incremental: true, zeroBlocks: false })
    await saver.complete(f)
    const bytes = f.bytes()
    expect([...bytes.subarray(8, 18)]).toEqual([...word((4 * MiB) / 512, 1), 1, 0x61])
    expect(bytes.length).toBeLessThan(4 * MiB + 1000)
  })

  it('that cannot be read fails the migration, and is watched until cleanup', async () => {
    const backend = disk(pattern(MiB))
    backend.read = async () => {
      throw new Error('the medium broke')
    }
    const f = bufferWriter()
    const saver = saverOf([{ name: 'a', backend }])
    saver.setup(f, ALL)
    await expect(saver.iterate(f)).rejects.toThrow('the medium broke')
    saver.cleanup()
    expect(backend.logs.size).toBe(0)
  })
})

describe('a sender that cannot be right', () => {
  const name = [1, 0x61]
  it.each([
    ['flags that there are not', [...word(0, 0x40)], /flags 0x40 .*offset 0x100/],
    ['zeros without a disk', [...word(0, 8)], /flags 0x8/],
    ['the end with a chunk', [...word(0, 3)], /flags 0x3/],
    ['a progress of 101 %', [...word(101, 4)], /101 %/],
    ['an unknown disk', [...word(0, 9), 2, 0x78, 0x0a], /section block > x\?: this machine has no disk/],
    ['a sector beyond the end', [...word(2048, 9), ...name], /sector 2048 is beyond the end .* 2048 here/],
    ['a sector of 2^54', [...word(2 ** 54, 9), ...name], /beyond the end/],
    ['a chunk that ends early', [...word(0, 1), ...name, 1, 2, 3], /the stream ended: 1048576 bytes wanted/],
    ['a name that ends early', [...word(0, 1), 200, 0x61], /the stream ended/],
    ['no end', [...word(1, 4)], /the stream ended/],
  ])('%s: a typed error, and nothing is written', async (_, bytes, wanted) => {
    const target = pattern(MiB)
    const before = target.slice()
    await expect(load([{ name: 'a', backend: disk(target) }], Uint8Array.from(bytes))).rejects.toThrow(wanted)
    expect(Buffer.compare(target, before)).toBe(0)
  })

  it('a disk that is read-only here, full, or taken: says which and where', async () => {
    const chunk = Uint8Array.from([...word(1, 9), ...name, ...EOS])
    const backend = disk(pattern(MiB))
    await expect(load([{ name: 'a', backend: disk(pattern(MiB), { readOnly: true }) }], chunk)).rejects.toMatchObject({
      code: 'FERRY_BLOCK_LOAD',
      device: 'a',
      offset: 0x100,
    })
    backend.write = async () => {
      throw new Error('no space left')
    }
    await expect(load([{ name: 'a', backend }], chunk)).rejects.toThrow(/cannot be written at 512: no space left/)
    backend.activate = async () => {
      throw new Error('locked')
    }
    await expect(load([{ name: 'a', backend }], chunk)).rejects.toThrow(/locked/)
  })

  it('another version of the section', async () => {
    const reader = bufferReader(Uint8Array.from(EOS))
    await expect(async () => drive(reader, new BlockLoader(() => []).load(reader, 2))).rejects.toThrow(/version 2/)
  })
})
