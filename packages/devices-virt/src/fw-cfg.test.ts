import { describe, expect, it } from 'vitest'
import { fwCfg } from './fw-cfg.ts'
import { realizeAlone } from './realize-alone.ts'

const RAM = 0x8000_0000
const [DATA, SELECTOR, DMA] = [0, 8, 0x10]

async function device() {
  const files = [
    { name: 'opt/b', data: Uint8Array.from([1, 2, 3, 4, 5]) },
    { name: 'opt/a', data: new Uint8Array(0) },
  ]
  const bench = await realizeAlone(fwCfg({ harts: 3, files }, { at: 0 }), { ram: { base: RAM, sizeBytes: 1 << 20 } })
  bench.device.reset!()
  const select = (key: number) => bench.write(SELECTOR, ((key & 0xff) << 8) | (key >> 8), 2)
  /** @returns the control word that the device leaves behind */
  const transfer = (control: number, length: number, address: number, at = RAM): number => {
    const command = new DataView(new ArrayBuffer(16))
    command.setUint32(0, control)
    command.setUint32(4, length)
    command.setBigUint64(8, BigInt(address))
    bench.physical.write(at, new Uint8Array(command.buffer))
    const swapped = new DataView(new ArrayBuffer(8))
    swapped.setBigUint64(0, BigInt(at))
    bench.write(DMA, swapped.getBigUint64(0, true), 8)
    const answer = new Uint8Array(4)
    bench.physical.read(at, answer)
    return new DataView(answer.buffer).getUint32(0)
  }
  const bytesAt = (address: number, length: number) => {
    const bytes = new Uint8Array(length)
    bench.physical.read(address, bytes)
    return [...bytes]
  }
  return { bench, select, transfer, bytesAt }
}

// Spec: virt-machine.md section 6.7.
describe('fw-cfg', () => {
  it('numbers files by name, and lists them', async () => {
    const { bench, select } = await device()
    select(0x19)
    const bytes: number[] = []
    for (let i = 0; i < 4 + 2 * 64; i++) bytes.push(Number(bench.read(DATA, 1)))
    expect(bytes.slice(0, 4)).toEqual([0, 0, 0, 2])
    expect(String.fromCharCode(...bytes.slice(12, 17))).toBe('opt/a')
    expect(bytes.slice(4 + 64, 4 + 64 + 6)).toEqual([0, 0, 0, 5, 0, 0x21])
  })

  it('gives bytes in memory order, and zeros after the end', async () => {
    const { bench, select } = await device()
    select(0)
    expect(bench.read(DATA, 4)).toBe(0x554d4551n)
    expect(bench.read(DATA, 8)).toBe(0n)
    select(5)
    expect(bench.read(DATA, 2)).toBe(3n)
    expect(bench.read(DMA, 8)).toBe(0x4746_4320_554d_4551n)
  })

  it('copies by DMA: select and read, skip, zeros after the end', async () => {
    const { transfer, bytesAt } = await device()
    expect(transfer((0x21 << 16) | 8 | 2, 3, RAM + 0x100)).toBe(0)
    expect(bytesAt(RAM + 0x100, 4)).toEqual([1, 2, 3, 0])
    expect(transfer((0x21 << 16) | 8 | 4, 4, 0)).toBe(0)
    expect(transfer(2, 8, RAM + 0x200)).toBe(0)
    expect(bytesAt(RAM + 0x200, 8)).toEqual([5, 0, 0, 0, 0, 0, 0, 0])
  })

  it('says so when there is no memory, and does not fill 4 GiB', async () => {
    const { transfer } = await device()
    expect(transfer((0x21 << 16) | 8 | 2, 0xffff_ffff, RAM + 0x1000)).toBe(1)
    expect(transfer(16, 4, RAM + 0x1000)).toBe(1)
    expect(transfer((0x21 << 16) | 8 | 2, 4, 0x1000)).toBe(1)
  })

  it('refuses two files of one name', async () => {
    const file = { name: 'x', data: new Uint8Array(1) }
    await expect(realizeAlone(fwCfg({ files: [file, file] }, { at: 0 }))).rejects.toThrow(/'x'/)
  })
})
