import { describe, expect, it } from 'vitest'
import { AutoConverge } from './auto-converge.ts'
import { Parameters } from './parameters.ts'

function run(changes: Record<string, unknown>, periods: [dirtiedPages: number, sentBytes: number][]) {
  const parameters = new Parameters()
  parameters.set(changes)
  const asked: number[] = []
  const converge = new AutoConverge(parameters.values, (percent) => asked.push(percent), 0)
  let now = 0
  let sent = 0
  for (const [pages, bytes] of periods) {
    converge.synced(pages / 2, sent + bytes / 2, (now += 600))
    converge.synced(pages / 2, (sent += bytes), (now += 600))
  }
  return { converge, asked }
}
const MiB = 2 ** 20
/** 51 % of what was sent, and 49 %. */
const tooMuch: [number, number] = [1306, 10 * MiB]
const fine: [number, number] = [1254, 10 * MiB]

describe('auto-converge (ram.md section 3)', () => {
  it('waits for two bad periods, begins with the initial value and goes up to the maximum', () => {
    const { converge, asked } = run(
      { 'cpu-throttle-initial': 30, 'cpu-throttle-increment': 25, 'max-cpu-throttle': 70 },
      [tooMuch, fine, tooMuch, tooMuch, tooMuch, fine, tooMuch, tooMuch],
    )
    expect(asked).toEqual([30, 55, 70])
    converge.stop()
    expect(asked.at(-1)).toBe(0)
    expect(converge.percent).toBe(0)
  })
  it('leaves a guest alone that writes less', () => {
    const { converge, asked } = run({}, [fine, fine, fine, fine])
    converge.stop()
    expect(asked).toEqual([])
  })
  it('slows down by what is needed, with tailslow', () => {
    // Twice as much as may be: half of the remaining 80 % would go, but no more than the step.
    const twice: [number, number] = [2560, 10 * MiB]
    expect(run({ 'cpu-throttle-tailslow': true }, [twice, twice, twice, twice]).asked).toEqual([20, 30])
    // 2 % too much: 80 - 80 * 0.98.
    expect(run({ 'cpu-throttle-tailslow': true }, [tooMuch, tooMuch, tooMuch, tooMuch]).asked).toEqual([20, 21])
  })
  it('follows the trigger', () => {
    expect(run({ 'throttle-trigger-threshold': 52 }, [tooMuch, tooMuch]).asked).toEqual([])
  })
})
