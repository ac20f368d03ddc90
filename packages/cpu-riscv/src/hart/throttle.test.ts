import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Throttle } from './throttle.ts'

describe('the throttle of the harts', () => {
  let ran = true
  const changes: boolean[] = []
  let throttle: Throttle
  beforeEach(() => {
    vi.useFakeTimers()
    ran = true
    changes.length = 0
    throttle = new Throttle((on) => {
      ran = on
      changes.push(on)
    })
  })
  afterEach(() => vi.useRealTimers())

  /** ms that the harts ran of the next second. */
  const ranOfOneSecond = () => {
    let ms = 0
    for (let i = 0; i < 1000; i++) {
      vi.advanceTimersByTime(1)
      if (ran) ms++
    }
    return ms
  }

  it.each([20, 50, 75, 99])('lets them stand for %d percent of the time', (percent) => {
    throttle.start()
    throttle.percent = percent
    expect(Math.abs(ranOfOneSecond() - 10 * (100 - percent))).toBeLessThan(40)
  })

  it('changes nothing while it is off, and lets them go on when it is switched off', () => {
    throttle.start()
    expect(ranOfOneSecond()).toBe(1000)
    expect(changes).toEqual([])
    throttle.percent = 99
    vi.advanceTimersByTime(5)
    expect(ran).toBe(false)
    throttle.percent = 0
    expect(ran).toBe(true)
    expect(ranOfOneSecond()).toBe(1000)
  })

  it('leaves harts alone that somebody else stopped', () => {
    throttle.start()
    throttle.percent = 50
    throttle.stop()
    changes.length = 0
    throttle.percent = 90
    vi.advanceTimersByTime(1000)
    expect(changes).toEqual([])
    throttle.start()
    expect(changes).toEqual([false])
  })
})
