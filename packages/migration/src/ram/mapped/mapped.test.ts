import {
  bufferReader,
  createQEMUFileReader,
  createQEMUFileWriter,
  drive,
  FerryError,
  GuestMemory,
  PAGE_BYTES,
  type SeekableChannel,
} from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { RamLoader } from '../ram-load.ts'
import { RamSaver } from '../ram-save.ts'
import { createZeroPageTest } from '../zero-page.ts'
import { mappedRamSession } from './mapped-load.ts'
import { MappedPages } from './mapped-pages.ts'

const MiB = 2 ** 20

/** A file in memory. */
function memoryFile(bytes = new Uint8Array(8 * MiB)) {
  let size = 0
  let position = 0
  const put = (buffers: readonly Uint8Array[], at: number) => {
    for (const buffer of buffers) {
      bytes.set(buffer, at)
      at += buffer.length
    }
    size = Math.max(size, at)
    return at
  }
  const take = (into: Uint8Array, at: number) => {
    const part = bytes.subarray(at, Math.min(at + into.length, size))
    into.set(part)
    return part.length
  }
  const channel: SeekableChannel = {
    features: new Set(['seekable']),
    get position() {
      return position
    },
    seek: (to) => void (position = to),
    read(into) {
      const count = take(into, position)
      position += count
      return count
    },
    write: (buffers) => void (position = put(buffers, position)),
    readAt: async (into, at) => take(into, at),
    writeAt: async (buffers, at) => void put(buffers, at),
    shutdown: async () => {},
    close: async () => {},
  }
  return {
    channel,
    bytes,
    cut: (to: number) => (size = to),
    rewind: () => (position = 0),
  }
}

function guest() {
  const m = new GuestMemory()
  const big = m.addBlock('big', 100 * PAGE_BYTES)
  const small = m.addBlock('small', 2 * PAGE_BYTES)
  return { m, big, small, blocks: [big, small], isZero: createZeroPageTest(m) }
}

async function saved(writers = 3) {
  const file = memoryFile()
  const from = guest()
  const saver = new RamSaver({ memory: from.m, migratableBlocks: () => from.blocks, flushWriteTlb: async () => {} })
  const pages = new MappedPages(file.channel, { isZero: from.isZero, writers })
  saver.use([pages])
  const write = (at: number, value: number) => {
    from.big.bytes[at] = value
    from.m.written(from.big.offset + at, 1)
  }
  for (let page = 0; page < 100; page += 2) write(page * PAGE_BYTES, page + 1)
  from.small.bytes[PAGE_BYTES] = 9
  const f = createQEMUFileWriter(file.channel)
  await saver.setup(f)
  await saver.iterate(f)
  write(4 * PAGE_BYTES, 77) // again
  write(6 * PAGE_BYTES, 0) // back to zeros
  write(7 * PAGE_BYTES, 7)
  await saver.complete(f)
  await f.flush()
  file.rewind()
  return { file, from, saver, pages }
}

async function load({ channel }: ReturnType<typeof memoryFile>) {
  const to = guest()
  to.big.bytes.fill(0xee) // of a boot that did not happen
  const loader = new RamLoader(to.m, () => to.blocks, to.isZero)
  loader.begin(mappedRamSession(channel, to.isZero, 2, loader.stats))
  const reader = createQEMUFileReader(channel)
  for (let section = 0; section < 3; section++) await drive(reader, loader.load(reader, 4))
  return { ...to, loader, reader }
}

describe('mapped-ram (ram.md section 7)', () => {
  it('has each page in its place, once, as it was at the end', async () => {
    const { file, from, pages, saver } = await saved()
    const at = (offset: number) => new DataView(file.bytes.buffer).getBigUint64(offset)
    const header = 8 + 1 + 3 + 8
    expect(new DataView(file.bytes.buffer).getUint32(header)).toBe(1)
    expect([at(header + 4), at(header + 12), at(header + 20)]).toEqual([4096n, BigInt(header + 28), BigInt(MiB)])
    expect(file.bytes[header + 28]).toBe(0b10010101) // pages 0, 2, 4 and 7: the sixth is zero again
    expect(file.bytes[MiB + 4 * PAGE_BYTES]).toBe(77)
    expect(file.bytes.subarray(MiB + 100 * PAGE_BYTES, MiB + 100 * PAGE_BYTES + 6)).toEqual(
      Uint8Array.of(5, ...Buffer.from('small')),
    )
    expect(pages.bytesBeside).toBe((50 + 1 + 2) * PAGE_BYTES)
    expect(saver.stats).toMatchObject({ normalPages: 53, zeroPages: 52 })

    const to = await load(file)
    expect(Buffer.compare(to.big.bytes, from.big.bytes)).toBe(0)
    expect(Buffer.compare(to.small.bytes, from.small.bytes)).toBe(0)
    expect(to.loader.stats).toEqual({ normalPages: 51, zeroPages: 51 })
  })

  const HEADER = 8 + 1 + 3 + 8
  it.each<[string, (view: DataView) => void, RegExp]>([
    ['a newer version', (v) => v.setUint32(HEADER, 2), /big: mapped-ram version 2; only 1/],
    ['other pages', (v) => v.setBigUint64(HEADER + 4, 16384n), /mapped pages of 16384 bytes/],
    ['pages within a page', (v) => v.setBigUint64(HEADER + 20, BigInt(MiB + 1)), /begin at 0x100001, within a page/],
    ['a place beyond everything', (v) => v.setBigUint64(HEADER + 12, 2n ** 63n), /beyond 2\^53/],
    ['a bitmap behind the end', (v) => v.setBigUint64(HEADER + 12, 2n ** 40n), /ends within its bitmap/],
    ['pages behind the end', (v) => v.setBigUint64(HEADER + 20, 2n ** 40n), /ends within its pages/],
  ])('with %s is refused', async (_, edit, message) => {
    const { file } = await saved()
    edit(new DataView(file.bytes.buffer))
    await expect(load(file)).rejects.toThrow(message)
  })

  it('cut anywhere is a typed error', async () => {
    const { file } = await saved()
    for (const size of [3, 25, 40, 1000, MiB, MiB + 8192, MiB + 100 * PAGE_BYTES + 3, 2 * MiB + 5000]) {
      file.cut(size)
      file.rewind()
      await expect(load(file), `cut at ${size}`).rejects.toSatisfy(FerryError.isInstance)
    }
  })

  it('takes no pages from the stream', async () => {
    const to = guest()
    const loader = new RamLoader(to.m, () => to.blocks, to.isZero)
    loader.begin(mappedRamSession(memoryFile().channel, to.isZero, 1, loader.stats))
    const reader = bufferReader(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 2, 3, 0x62, 0x69, 0x67, 0))
    await expect((async () => drive(reader, loader.load(reader, 4)))()).rejects.toThrow('ZERO')
  })

  it('a file that cannot be written fails the save', async () => {
    const { from } = await saved()
    const file = memoryFile()
    file.channel.writeAt = async () => {
      throw new Error('no space left')
    }
    const saver = new RamSaver({ memory: from.m, migratableBlocks: () => from.blocks, flushWriteTlb: async () => {} })
    saver.use([new MappedPages(file.channel, { isZero: from.isZero, writers: 2 })])
    const f = createQEMUFileWriter(file.channel)
    await saver.setup(f)
    await expect(saver.iterate(f).then(() => saver.complete(f))).rejects.toThrow('no space left')
    saver.cleanup()
  })
})
