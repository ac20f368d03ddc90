import { describe, expect, it } from 'vitest'
import { aclintMswi, aclintMtimer, aclintSswi } from './aclint.ts'
import { realizeAlone } from './realize-alone.ts'

const BASE = 0x200_4000
const MTIME = BASE + 0x7ff8

// Spec: virt-machine.md section 6.1.
describe('aclint mtimer', () => {
  it('counts virtual time at 10 MHz', async () => {
    const bench = await realizeAlone(aclintMtimer({}, { at: BASE }))
    bench.clock.set(123_456_789n)
    expect(bench.read(MTIME, 8)).toBe(1_234_567n)
    expect(bench.read(MTIME, 4)).toBe(1_234_567n)
    expect(bench.read(MTIME + 4, 4)).toBe(0n)
  })

  it('starts at 0 again after a reset, which leaves mtimecmp', async () => {
    const bench = await realizeAlone(aclintMtimer({}, { at: BASE }))
    bench.write(BASE, 77n, 8)
    bench.clock.set(5_000_000_000n)
    bench.device.reset!()
    expect(bench.read(MTIME, 8)).toBe(0n)
    expect(bench.timeDelta).toBe(-50_000_000n)
    expect(bench.read(BASE, 8)).toBe(77n)
  })

  it('tells the harts their compare values, also half by half', async () => {
    const bench = await realizeAlone(aclintMtimer({}, { at: BASE }), { harts: 2 })
    expect(bench.harts[1]!.mtimecmp).toBe(0n) // already pending at power-on
    bench.write(BASE + 8, 0x1_0000_0002n, 8)
    bench.write(BASE + 8, 5, 4)
    expect(bench.harts[1]!.mtimecmp).toBe(0x1_0000_0005n)
    bench.write(BASE + 12, 0xffff_ffff, 4)
    expect(bench.harts[1]!.mtimecmp).toBe(0xffff_ffff_0000_0005n)
    expect(bench.harts[0]!.mtimecmp).toBe(0n)
  })

  it('lets the guest set the time, and compares again', async () => {
    const bench = await realizeAlone(aclintMtimer({}, { at: BASE }))
    bench.harts[0]!.mtimecmp = undefined
    bench.write(MTIME, 1000n, 8)
    expect(bench.read(MTIME, 8)).toBe(1000n)
    bench.write(MTIME + 4, 1, 4)
    expect(bench.read(MTIME, 8)).toBe(0x1_0000_03e8n)
    expect(bench.harts[0]!.mtimecmp).toBe(0n)
  })

  it('arms the harts when the machine goes on after a load', async () => {
    const bench = await realizeAlone(aclintMtimer({}, { at: BASE }))
    bench.sections[0]!.device!.state.timecmp[0] = 99n
    bench.device.resume!()
    expect(bench.harts[0]!.mtimecmp).toBe(99n)
  })
})

describe('aclint software interrupts', () => {
  it('MSIP is a word per hart', async () => {
    const bench = await realizeAlone(aclintMswi({}, { at: 0 }), { harts: 2 })
    bench.write(4, 0xffff_ffff)
    expect(bench.harts.map((h) => h.mip)).toEqual([0, 8])
    expect([bench.read(0), bench.read(4), bench.read(8)]).toEqual([0n, 1n, 0n])
    bench.write(4, 0xffff_fffe)
    expect(bench.harts[1]!.mip).toBe(0)
    expect(bench.write(0, 1, 8)).toBe(false)
  })

  it('SSWI reads 0', async () => {
    const bench = await realizeAlone(aclintSswi({}, { at: 0 }))
    bench.write(0, 1)
    expect(bench.read(0)).toBe(0n)
  })
})
