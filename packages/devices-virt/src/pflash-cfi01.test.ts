import { bufferReader, bufferWriter, compileVmstate, drive } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { pflashCfi01, pflashCfi01Vmstate } from './pflash-cfi01.ts'
import { realizeAlone } from './realize-alone.ts'

const BASE = 0x2000_0000
const both = (command: number) => command | (command << 16)

async function flash() {
  const bench = await realizeAlone(pflashCfi01({ idstr: 'virt.flash0' }, { at: BASE }))
  bench.device.reset!()
  const command = (offset: number, value: number) => bench.write(BASE + offset, both(value))
  const mode = () => bench.physical.describe()[0]!.kind
  return { bench, command, mode, state: bench.sections[0]!.device!.state }
}

// Spec: virt-machine.md section 6.6; the commands in detail are compared with stock in tests/stock-registers.qemu.test.ts.
describe('pflash-cfi01', () => {
  it('is memory until a command comes, and again after read array', async () => {
    const { bench, command, mode } = await flash()
    expect([mode(), bench.read(BASE)]).toEqual(['romd', 0n])
    command(0, 0x90)
    expect([mode(), bench.read(BASE), bench.read(BASE + 4)]).toEqual(['io', 0x0089_0089n, 0x0018_0018n])
    command(0, 0xff)
    expect([mode(), bench.read(BASE)]).toEqual(['romd', 0n])
  })

  it('answers a CFI query', async () => {
    const { bench, command } = await flash()
    command(0x55 * 4, 0x98)
    const text = [0x10, 0x11, 0x12].map((i) => String.fromCharCode(Number(bench.read(BASE + 4 * i)) & 0xff)).join('')
    expect(text).toBe('QRY')
    expect(bench.read(BASE + 4 * 0x27)).toBe(0x0018_0018n)
  })

  it('erases a sector and programs words, and tells the dirty log', async () => {
    const { bench, command } = await flash()
    const { memory } = bench.physical
    memory.dirtyLog.enabled = true
    command(0x4_0000, 0x20)
    command(0x4_0000, 0xd0)
    command(0x4_0010, 0x40)
    bench.write(BASE + 0x4_0010, 0x1234_5678)
    expect(bench.read(BASE)).toBe(0x0080_0080n)
    command(0, 0xff)
    expect([bench.read(BASE + 0x4_0010), bench.read(BASE + 0x7_fffc), bench.read(BASE + 0x8_0000)]).toEqual([
      0x1234_5678n,
      0xffff_ffffn,
      0n,
    ])
    const dirty = new Int32Array(256)
    expect(memory.dirtyLog.take(memory.blocks[0]!, dirty)).toBe(64)
  })

  it('goes on with a buffered write that was under way when it migrated', async () => {
    const source = await flash()
    source.command(0x1000, 0xe8)
    source.command(0x1000, 1)
    source.bench.write(BASE + 0x1000, 0x1111_1111)
    const out = bufferWriter()
    compileVmstate(pflashCfi01Vmstate).save(source.state, out)

    const target = await flash()
    const input = bufferReader(Uint8Array.from([...out.bytes(), 0x7e]))
    await drive(input, compileVmstate(pflashCfi01Vmstate).load(target.state, input, 1))
    target.bench.device.resume!()
    expect(target.mode()).toBe('io')
    target.bench.write(BASE + 0x1004, 0x2222_2222)
    target.command(0x1000, 0xd0)
    target.command(0, 0xff)
    expect(target.bench.read(BASE + 0x1000, 8)).toBe(0x2222_2222_1111_1111n)
  })

  it('refuses a block outside the bank', async () => {
    const source = await flash()
    source.command(0x1000, 0xe8)
    source.command(0x1000, 1)
    const out = bufferWriter()
    compileVmstate(pflashCfi01Vmstate).save(source.state, out)
    const bytes = out.bytes()
    bytes[bytes.length - 4] = 0x7f
    const input = bufferReader(Uint8Array.from([...bytes, 0x7e]))
    const load = async () => drive(input, compileVmstate(pflashCfi01Vmstate).load(source.state, input, 1))
    await expect(load()).rejects.toThrow(/lies in the bank/)
  })
})
