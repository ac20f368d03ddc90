import { describe, expect, it } from 'vitest'
import { plic } from './plic.ts'
import { realizeAlone } from './realize-alone.ts'

const BASE = 0xc00_0000
const [MEIP, SEIP] = [1 << 11, 1 << 9]
const enable = (context: number, word = 0) => BASE + 0x2000 + 0x80 * context + 4 * word
const threshold = (context: number) => BASE + 0x20_0000 + 0x1000 * context
const claim = (context: number) => threshold(context) + 4

async function controller(harts = 2) {
  const bench = await realizeAlone(plic({}, { at: BASE }), { harts })
  bench.device.reset!()
  return bench
}

// Spec: virt-machine.md section 6.2.
describe('plic', () => {
  it('delivers to the contexts that enabled the source, hart 0 M, hart 0 S, hart 1 M ...', async () => {
    const bench = await controller()
    bench.write(BASE + 4 * 10, 1)
    bench.write(enable(1), 1 << 10)
    bench.write(enable(2), 1 << 10)
    bench.line(10).set(true)
    expect(bench.harts.map((h) => h.mip)).toEqual([SEIP, MEIP])
    expect(bench.read(BASE + 0x1000)).toBe(1n << 10n)
    expect(bench.read(claim(1))).toBe(10n)
    expect(bench.harts.map((h) => h.mip)).toEqual([0, 0])
    expect(bench.read(claim(2))).toBe(0n)
  })

  it('prefers high priority, then low id, and holds back what the threshold covers', async () => {
    const bench = await controller(1)
    for (const [source, priority] of [
      [3, 1],
      [33, 2],
      [64, 2],
    ] as const) {
      bench.write(BASE + 4 * source, priority)
      bench.write(enable(0, source >> 5), 2 ** (source & 31))
      bench.line(source).set(true)
    }
    expect([bench.read(claim(0)), bench.read(claim(0)), bench.read(claim(0)), bench.read(claim(0))]).toEqual([
      33n,
      64n,
      3n,
      0n,
    ])
    bench.line(3).set(true)
    bench.write(claim(0), 3)
    expect(bench.harts[0]!.mip).toBe(MEIP)
    bench.write(threshold(0), 1)
    expect(bench.harts[0]!.mip).toBe(0)
  })

  it('remembers a source that is raised while claimed until it is completed', async () => {
    const bench = await controller(1)
    bench.write(BASE + 4, 1)
    bench.write(enable(1), 2)
    bench.line(1).set(true)
    bench.read(claim(1))
    bench.line(1).set(true)
    expect(bench.harts[0]!.mip).toBe(0)
    bench.write(claim(1), 1)
    expect(bench.harts[0]!.mip).toBe(SEIP)
  })

  it('does not forget a request when the wire goes low, nor invents one when it stays high', async () => {
    const bench = await controller(1)
    bench.write(BASE + 4, 1)
    bench.write(enable(0), 2)
    bench.line(1).set(true)
    bench.line(1).set(false)
    expect(bench.read(claim(0))).toBe(1n)
    bench.write(claim(0), 1)
    expect(bench.harts[0]!.mip).toBe(0)
  })

  it('has 32-bit registers only, and ignores what is reserved', async () => {
    const bench = await controller(1)
    expect(bench.read(BASE + 4, 8)).toBeUndefined()
    expect(bench.write(BASE + 4, 1, 1)).toBe(false)
    bench.write(BASE, 7)
    bench.write(BASE + 0x180, 7)
    bench.write(enable(5), 1)
    bench.write(claim(0), 1000)
    expect([bench.read(BASE), bench.read(BASE + 0x180), bench.read(enable(5))]).toEqual([0n, 0n, 0n])
    expect(() => bench.line(96)).toThrow(RangeError)
  })
})
