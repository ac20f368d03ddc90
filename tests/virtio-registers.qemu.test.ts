/** The same register accesses on our PCI and virtio devices and on those of stock QEMU, and then the same bytes saved. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { memoryBlock, virtioBlk, virtioRng } from '@ferryvm/devices-virtio'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { random } from './harness/seeded-random.ts'
import { MMIO_SLOT, VirtioBench } from './harness/virtio-bench.ts'
import { config } from './harness/virtio-driver.ts'
import { type AccessSize, Qtest } from './stock-qemu/qtest.ts'
import { stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const missing = stockQemuMissing()
if (missing) console.log(`skipped: ${missing}`)

const DISK_BYTES = 4 << 20

/** Stock's machine with a disk, which can be asked for what it would save. */
class Stock extends Qtest {
  readonly #folder: string

  constructor(options: string[], folder: string) {
    const disk = join(folder, 'disk.img')
    writeFileSync(disk, new Uint8Array(DISK_BYTES))
    const drive = ['-drive', `if=none,id=d0,file=${disk},format=raw,snapshot=on`]
    super(['-M', 'virt', '-qmp', `unix:${join(folder, 'qmp')},server=on,wait=off`, ...drive, ...options])
    this.#folder = folder
  }

  /** Bytes of every device section, by idstr. */
  async sections(): Promise<Map<string, Buffer>> {
    const socket = connect(join(this.#folder, 'qmp'))
    const replies: any[] = []
    createInterface({ input: socket }).on('line', (line) => replies.push(JSON.parse(line)))
    const file = join(this.#folder, 'stream')
    socket.write('{"execute":"qmp_capabilities"}\n')
    socket.write(`${JSON.stringify({ execute: 'migrate', arguments: { uri: `exec:cat > ${file}` } })}\n`)
    for (let status = ''; status !== 'completed'; ) {
      await new Promise((r) => setTimeout(r, 20))
      socket.write('{"execute":"query-migrate"}\n')
      status = replies.findLast((r) => r.return?.status)?.return.status ?? ''
      if (status === 'failed') throw new Error('stock could not save')
    }
    socket.destroy()
    return splitStream(readFileSync(file))
  }
}

/** The description at the end names every device section and its length. Spec: stream.md section 7. */
function splitStream(stream: Buffer): Map<string, Buffer> {
  const start =
    stream.indexOf('{"configuration"') >= 0 ? stream.indexOf('{"configuration"') : stream.lastIndexOf('{"page_size"')
  const text = stream.subarray(start).toString('latin1')
  const description = JSON.parse(text.slice(0, text.lastIndexOf('}') + 1)) as {
    devices: { name: string; instance_id: number; fields: { size: number; array_len?: number }[] }[]
  }
  const found = new Map<string, Buffer>()
  for (const { name, fields } of description.devices) {
    const length = fields.reduce((sum, f) => sum + f.size * (f.array_len ?? 1), 0)
    const header = Buffer.concat([Buffer.of(name.length), Buffer.from(name)])
    const at = stream.indexOf(header) + header.length + 8
    if (at < start && stream[at + length] === 0x7e) found.set(name, stream.subarray(at, at + length))
  }
  return found
}

function differences(ours: Uint8Array, stock: Uint8Array): string[] {
  const found = ours.length === stock.length ? [] : [`${ours.length} bytes, stock has ${stock.length}`]
  ours.forEach((byte, i) => {
    if (byte !== stock[i]) found.push(`0x${i.toString(16)}: 0x${byte.toString(16)}, stock 0x${stock[i]?.toString(16)}`)
  })
  return found
}

interface Access {
  readonly address: number
  readonly size: AccessSize
  readonly write?: number
}

const blk = (placement: object) => virtioBlk({ drive: memoryBlock(new Uint8Array(DISK_BYTES)) }, placement)
const setups = {
  'legacy virtio-mmio': {
    qemu: ['-device', 'virtio-blk-device,drive=d0', '-device', 'virtio-rng-device'],
    ours: () => VirtioBench.create([blk({ bus: 'virtio-mmio' }), virtioRng({}, { bus: 'virtio-mmio' })]),
    idstrs: ['virtio-mmio@0000000010008000/virtio-blk', 'virtio-mmio@0000000010007000/virtio-rng'],
    prepare: [],
    access: mmioAccess,
  },
  'modern virtio-mmio': {
    qemu: [
      '-global',
      'virtio-mmio.force-legacy=false',
      '-device',
      'virtio-blk-device,drive=d0',
      '-device',
      'virtio-rng-device',
    ],
    ours: () =>
      VirtioBench.create([blk({ bus: 'virtio-mmio' }), virtioRng({}, { bus: 'virtio-mmio' })], { forceLegacy: false }),
    idstrs: ['virtio-mmio@0000000010008000/virtio-blk', 'virtio-mmio@0000000010007000/virtio-rng'],
    prepare: [],
    access: mmioAccess,
  },
  'PCI configuration space': {
    qemu: ['-device', 'virtio-blk-pci,drive=d0', '-device', 'virtio-rng-pci,disable-legacy=on'],
    ours: () =>
      VirtioBench.create([
        blk({ bus: 'pcie.0' }),
        virtioRng({}, { bus: 'pcie.0', options: { 'disable-legacy': 'on' } }),
      ]),
    idstrs: ['0000:00:00.0/gpex_root', '0000:00:01.0/virtio-blk', '0000:00:02.0/virtio-rng', 'PCIBUS'],
    prepare: [],
    access: configAccess,
  },
  'virtio-pci registers': {
    qemu: ['-device', 'virtio-blk-pci,drive=d0', '-device', 'virtio-rng-pci,disable-legacy=on'],
    ours: () =>
      VirtioBench.create([
        blk({ bus: 'pcie.0' }),
        virtioRng({}, { bus: 'pcie.0', options: { 'disable-legacy': 'on' } }),
      ]),
    idstrs: ['0000:00:01.0/virtio-blk', '0000:00:02.0/virtio-rng', 'PCIBUS'],
    prepare: [1, 2].flatMap((slot): Access[] => [
      { address: config(slot, 0x10), size: 4, write: 0x1000 * slot },
      { address: config(slot, 0x14), size: 4, write: 0x4010_0000 + 0x1000 * slot },
      { address: config(slot, 0x20), size: 4, write: 0x4000_0000 + 0x1_0000 * slot },
      { address: config(slot, 4), size: 2, write: 7 },
    ]),
    access: barAccess,
  },
}

function mmioAccess(next: (below: number) => number): Access | Access[] {
  const slot = MMIO_SLOT(5 + next(3))
  if (next(6) === 0) return { address: slot + 0x100 + next(0x40), size: 1, write: next(3) ? undefined : next(256) }
  const register = 4 * next(0x40)
  if (next(2)) return { address: slot + register, size: 4 }
  const values: Record<number, number[]> = {
    20: [0, 1, 2],
    32: [1, 0x3000_6e54, 0xffff_ffff, 0],
    36: [0, 1, 2],
    48: [0, 1, 2, 1023, 1024],
    56: [8, 256, 1024, 0],
    60: [4096, 64],
    64: [0x8_0000, 0x8_0010, 0],
    68: [0, 1],
    100: [1, 3],
    112: [0, 1, 3, 0xb, 0xb],
    128: [0x8000_0000],
    144: [0x8000_1000],
    160: [0x8000_2000],
  }
  const keys = Object.keys(values)
  const key = Number(keys[next(keys.length)])
  const access: Access = { address: slot + key, size: 4, write: values[key]![next(values[key]!.length)]! }
  // Stock breaks a device at once whose rings are not in memory, we do when it uses them.
  return key === 0x40 ? [{ address: slot + 0x28, size: 4, write: 4096 }, access] : access
}

function configAccess(next: (below: number) => number): Access {
  const slot = next(4)
  const size = ([1, 2, 4] as const)[next(3)]!
  const offset = (next(3) ? next(0xb0) : next(0x1000)) & -size
  if (next(2)) return { address: config(slot, offset), size }
  return { address: config(slot, offset), size, write: next(3) ? next(2 ** 32) : 0xffff_ffff }
}

function barAccess(next: (below: number) => number): Access | Access[] {
  const slot = 1 + next(2)
  const modern = 0x4000_0000 + 0x1_0000 * slot
  const msix = 0x4010_0000 + 0x1000 * slot
  const io = 0x0300_0000 + 0x1000 * slot
  switch (next(5)) {
    case 0: {
      // Device configuration, interrupt status, what is behind them.
      const address = modern + [0x1000, 0x2000, 0x2000, 0x2020][next(4)]! + next(0x30)
      return { address, size: 1, write: next(4) ? undefined : next(256) }
    }
    case 1: {
      const address = msix + 4 * next(16)
      return { address: next(8) ? address : msix + 0x800, size: 4, write: next(2) ? undefined : next(2 ** 32) }
    }
    case 2: {
      const registers: [number, AccessSize, number[]][] = [
        [0, 4, [0]],
        [4, 4, [0, 0x3000_0204, 0x4000_0000, 0x200]],
        [8, 4, [0x8_0000, 0x8_0010, 0]],
        [12, 2, []],
        [14, 2, [0, 1, 7, 2000]],
        [18, 1, [0, 1, 3]],
        [19, 1, []],
        [20, 2, [0, 1, 5]],
        [22, 2, [0, 1, 5]],
        [24, 4, []],
        [40, 1, []],
      ]
      const [register, size, values] = registers[next(registers.length)]!
      const write = values.length > 0 && next(2) ? values[next(values.length)] : undefined
      const access = { address: io + register, size, write }
      // Vectors of queues that do not exist are remembered by stock and not by us.
      return register === 22 ? [{ address: io + 14, size: 2, write: 0 }, access] : access
    }
    default: {
      const registers: [number, AccessSize, number[]][] = [
        [0, 4, [0, 1, 2]],
        [4, 4, []],
        [8, 4, [0, 1, 2]],
        [12, 4, [1, 0, 0x3000_6e54, 0xffff_ffff]],
        [16, 2, [0, 1, 5, 0xffff]],
        [18, 2, []],
        [20, 1, [0, 1, 3, 0xb]],
        [21, 1, []],
        [22, 2, [0, 1, 1023, 1024]],
        [24, 2, [8, 128, 1024, 0, 2048]],
        [26, 2, [0, 1, 9]],
        [28, 2, [1, 0]],
        [30, 2, []],
        [32, 4, [0x8000_0000]],
        [36, 4, [0]],
        [40, 4, [0x8000_1000]],
        [44, 4, [0]],
        [48, 4, [0x8000_2000]],
        [52, 4, [0]],
        [56, 2, []],
        [58, 2, [1]],
        [60, 4, []],
        [0x80, 4, []],
      ]
      const [register, size, values] = registers[next(registers.length)]!
      const write = values.length > 0 && next(2) ? values[next(values.length)] : undefined
      const access = { address: modern + register, size, write }
      if (register === 26) return [{ address: modern + 22, size: 2, write: 0 }, access]
      // Stock breaks a device at once whose rings are not in memory, we do when it uses them.
      const rings = [32, 40, 48].map(
        (r, i): Access => ({ address: modern + r, size: 4, write: 0x8000_0000 + 0x1000 * i }),
      )
      return register === 28 ? [...rings, access] : access
    }
  }
}

describe.skipIf(missing).each(Object.entries(setups))(
  '%s beside stock QEMU',
  (_, { qemu, ours, idstrs, prepare, access }) => {
    let folder: string
    let stock: Stock
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), 'ferry-'))
      stock = new Stock(qemu, folder)
    })
    afterAll(() => {
      stock.close()
      rmSync(folder, { recursive: true })
    })

    it('answers and saves the same after random accesses', async () => {
      await using bench = await ours()
      const next = random(Number(process.env.SEED ?? 1))
      const log: string[] = []
      const step = async ({ address, size, write }: Access) => {
        const where = `[0x${address.toString(16)}].${size}`
        if (write !== undefined) {
          const value = size === 4 ? write >>> 0 : write & (2 ** (8 * size) - 1)
          log.push(`${where}=0x${value.toString(16)}`)
          bench.write(address, value, size)
          await stock.write(address, value, size)
        } else {
          log.push(`${where}?`)
          const expected = await stock.read(address, size)
          expect(
            bench.read(address, size),
            `${log.length}: stock says 0x${expected.toString(16)} after ${log.slice(-25).join(' ')}`,
          ).toBe(expected)
        }
      }
      for (const a of prepare) await step(a)
      for (let n = 0; n < 6000; n++) for (const a of [access(next)].flat()) await step(a)
      const saved = await stock.sections()
      for (const idstr of idstrs) {
        expect(differences(bench.save(idstr), saved.get(idstr)!), `${idstr} after ${log.length} accesses`).toEqual([])
      }
    })
  },
)
