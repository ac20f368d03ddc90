import { describe, expect, it } from 'vitest'
import { readVirtualNs, type Timer, VirtualClock, virtualNsReader } from './virtual-clock.ts'

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe('VirtualClock', () => {
  it('stands until it is started, passes, and stands again', async () => {
    const clock = new VirtualClock()
    clock.set(5_000_000_000n)
    await sleep(5)
    expect(clock.ns).toBe(5_000_000_000n)
    clock.start()
    clock.start()
    expect(() => clock.set(0n)).toThrow('while it stands')
    await sleep(20)
    clock.stop()
    const stopped = clock.ns
    expect(stopped).toBeGreaterThan(5_010_000_000n)
    await sleep(10)
    expect(clock.ns).toBe(stopped)
    expect(readVirtualNs(clock.shared, clock.baseMs)).toBe(Number(stopped))
    clock.start()
    expect(clock.ns - stopped).toBeLessThan(1_000_000_000n)
    clock.stop()
  })

  it('does not go back for a thread whose clock is rounded down', () => {
    const clock = new VirtualClock()
    clock.start()
    const behind = virtualNsReader(clock.shared, clock.baseMs, true)
    const ahead = virtualNsReader(clock.shared, clock.baseMs - 3_600_000, true)
    const hour = 3_600_000_000_000
    const first = behind()
    expect(first).toBeLessThan(hour)
    const seen = ahead()
    expect(seen).toBeGreaterThan(hour)
    expect(behind()).toBe(seen)
    // Started again, it goes on from where it stood.
    clock.stop()
    clock.start()
    expect(behind()).toBeLessThan(hour)
    clock.stop()
  })

  it('timers fire in virtual time, not before, and not while it stands', async () => {
    const clock = new VirtualClock()
    const fired: string[] = []
    const at = (name: string, expireNs: bigint): Timer => {
      const timer = { expireNs }
      clock.at(timer, () => {
        expect(clock.ns).toBeGreaterThanOrEqual(expireNs)
        fired.push(name)
      })
      return timer
    }
    const early = at('early', 10_000_000n)
    const late = at('late', 3_600_000_000_000n)
    await sleep(30)
    expect(fired).toEqual([])
    clock.start()
    await sleep(60)
    expect(fired).toEqual(['early'])
    expect(early.expireNs).toBe(-1n)
    // A load moved it: it must be said again.
    late.expireNs = 0n
    clock.at(late, () => fired.push('moved'))
    await sleep(30)
    expect(fired).toEqual(['early', 'moved'])
    const disarmed = at('never', clock.ns + 5_000_000n)
    disarmed.expireNs = -1n
    clock.at(disarmed, () => fired.push('never'))
    await sleep(30)
    expect(fired).toEqual(['early', 'moved'])
    clock.stop()
  })
})
