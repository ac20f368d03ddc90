import { describe, expect, it } from 'vitest'
import { Places } from './places.ts'
import { Timeline } from './timeline.ts'

const runsOf = (timeline: Timeline) => [...timeline.runs()]

describe('a timeline', () => {
  it('keeps what was seen in order, and joins what is equal', () => {
    const timeline = new Timeline()
    for (const [place, ms] of [
      [7, 1],
      [7, 2],
      [8, 1],
      [7, 1],
      [9, 0],
    ])
      timeline.add(place, ms)
    expect(runsOf(timeline)).toEqual([
      { place: 7, duration: 3 },
      { place: 8, duration: 1 },
      { place: 7, duration: 1 },
    ])
    expect(timeline.total).toBe(5)
  })

  it('stays within its bound, and keeps sums and shares', () => {
    const timeline = new Timeline(64)
    for (let i = 0; i < 100_000; i++) timeline.add(i % 4 === 0 ? 1 : i % 4 === 1 ? 2 : 3 + (i % 7), 1)
    expect(timeline.length).toBeLessThan(64)
    expect(timeline.length).toBeGreaterThan(16)
    const runs = runsOf(timeline)
    expect(runs.reduce((sum, run) => sum + run.duration, 0)).toBe(100_000)
    // No part of the time is left finer or coarser than another by more than the grain's last step.
    expect(Math.max(...runs.map((run) => run.duration))).toBeLessThan(100_000 / 8)
  })

  it('keeps the share of each place while it becomes coarser', () => {
    const timeline = new Timeline(4096)
    for (let i = 0; i < 200_000; i++) {
      timeline.add(1, 1)
      timeline.add(2, 3)
    }
    const second = runsOf(timeline).filter((run) => run.place === 2)
    const share = second.reduce((sum, run) => sum + run.duration, 0) / timeline.total
    expect(share).toBeGreaterThan(0.7)
    expect(share).toBeLessThan(0.8)
  })
})

describe('places', () => {
  it('are numbered once each, by mode and address', () => {
    const places = new Places()
    const at = (pc: bigint, mode = 0) => places.number({ pc, mode, state: 'running' })
    expect(at(16n)).toBe(at(16n))
    expect(at(16n)).not.toBe(at(16n, 1))
    expect(places.list[places.number({ pc: 16n, mode: 0, state: 'idle' })]).toBe('idle')
    expect(places.list[places.number({ pc: 16n, mode: 0, state: 'stopped' })]).toBe('stopped')
  })

  it('stay within their bound: pages, then one place for all that is new', () => {
    const places = new Places(100)
    for (let i = 0n; i < 10_000n; i++) places.number({ pc: i * 64n, mode: 1, state: 'running' })
    expect(places.list.length).toBeLessThan(210)
    for (let i = 0n; i < 10_000n; i++) places.number({ pc: i << 20n, mode: 1, state: 'running' })
    expect(places.list.length).toBeLessThan(210)
    const unknown = places.number({ pc: 1n << 50n, mode: 1, state: 'running' })
    expect(places.list[unknown]).toEqual({ mode: 1, pc: 0n })
  })
})
