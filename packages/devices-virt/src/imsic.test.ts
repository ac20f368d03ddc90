import { bufferReader, bufferWriter, drive } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { imsic } from './imsic.ts'
import { realizeAlone } from './realize-alone.ts'

const [M, S] = [0x2400_0000, 0x2800_0000]
const controller = (guestFiles?: number) =>
  realizeAlone(imsic({ supervisorAt: S }, { at: M }), { harts: 2, guestFiles })

// Spec: RISC-V AIA 1.0, "Memory region for an interrupt file"; virt-vmstate.md section 7.
describe('imsic', () => {
  it('makes what is written to a page pending in its file, in either byte order', async () => {
    const bench = await controller(0)
    const [first, second] = bench.harts.map((hart) => hart.interruptFiles!)
    bench.write(M, 5)
    bench.write(M + 0x1000, 6)
    bench.write(S + 0x1000, 7)
    bench.write(S + 0x1004, 0xff00_0000)
    expect([first!.machine.pending, second!.machine.pending]).toEqual([[5], [6]])
    expect([first!.supervisor[0]!.pending, second!.supervisor[0]!.pending]).toEqual([[], [7, 255]])
    expect(bench.read(S + 0x1000)).toBe(0n)
  })

  it('ignores identity 0 and those beyond the last', async () => {
    const bench = await controller(0)
    for (const value of [0, 256, 0xffff_ffff]) bench.write(M, value)
    expect(bench.harts[0]!.interruptFiles!.machine.pending).toEqual([])
    bench.write(M + 8, 1)
    expect(bench.guestErrors).toEqual(['imsic: write to a reserved register'])
  })

  it('has pages for guests behind that of their supervisor, as many as a power of two', async () => {
    const bench = await controller(2)
    bench.write(S + 0x4000 + 0x2000, 9)
    bench.write(S + 0x4000 + 0x3000, 10)
    expect(bench.harts.map(({ interruptFiles }) => interruptFiles!.supervisor.map((file) => file.pending))).toEqual([
      [[], [], []],
      [[], [], [9]],
    ])
  })

  it('saves a section per hart and level, machine level first', async () => {
    const bench = await controller(1)
    expect(bench.sections.map(({ idstr, instanceId }) => `${idstr}/${instanceId}`)).toEqual([
      'riscv_imsic/0',
      'riscv_imsic/1',
      'riscv_imsic/2',
      'riscv_imsic/3',
    ])
    const file = bench.harts[1]!.interruptFiles!.supervisor[1]!
    file.state = { eidelivery: 1, eithreshold: 40, eistate: new Uint32Array(256).fill(3, 255) }
    const { codec, state } = bench.sections[3]!.device!
    const out = bufferWriter()
    codec.save(state, out)
    const bytes = out.bytes()
    expect(bytes.length).toBe(2 * 1032)
    file.state = { eidelivery: 0, eithreshold: 0, eistate: new Uint32Array(256) }
    const input = bufferReader(bytes)
    await drive(input, codec.load(state, input, 1))
    expect(file.state.eidelivery).toBe(1)
    expect(file.state.eithreshold).toBe(40)
    expect([...file.state.eistate].filter((word) => word === 3).length).toBe(1)
  })

  it('needs harts with interrupt files', async () => {
    await expect(controller()).rejects.toThrow(/no interrupt files/)
  })
})
