import { type Device, type RunState, silentLogger } from '@ferryvm/core'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { SelfAnnouncements } from './self-announcements.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function setup() {
  const heard: string[] = []
  const begin = Date.now()
  const card = (id: string) => ({
    id,
    type: 'virtio-net',
    path: '',
    device: { announce: () => void heard.push(`${id} ${Date.now() - begin}`) } as Device,
  })
  const rest = { id: 'disk', type: 'virtio-blk', path: '', device: {} }
  const listeners = new Set<() => void>()
  const machine = {
    devices: [card('a'), rest, card('b')],
    runState: 'running' as RunState,
    on(_: string, listener: () => void) {
      listeners.add(listener)
      return { [Symbol.dispose]: () => void listeners.delete(listener) }
    },
  }
  const resume = () => {
    machine.runState = 'running'
    for (const listener of [...listeners]) listener()
  }
  return { heard, machine, resume, listeners, announcements: new SelfAnnouncements(machine, silentLogger) }
}
const times = { initialMs: 50, maxMs: 220, rounds: 5, stepMs: 100 }

describe('self-announcements (protocol.md section 1)', () => {
  it('come at once, then after pauses that grow up to the longest', () => {
    const { heard, announcements } = setup()
    announcements.start(times, { interfaces: ['a'] })
    expect(heard).toEqual(['a 0'])
    vi.advanceTimersByTime(10_000)
    expect(heard).toEqual(['a 0', 'a 50', 'a 200', 'a 420', 'a 640'])
  })

  it('come from every card, or from those that were asked for; no rounds are none', () => {
    const { heard, announcements } = setup()
    announcements.start({ ...times, rounds: 1 })
    announcements.start({ ...times, rounds: 1 }, { interfaces: ['b', 'nobody'] })
    announcements.start({ ...times, rounds: 0 })
    vi.runAllTimers()
    expect(heard).toEqual(['a 0', 'b 0', 'b 0'])
  })

  it('begin anew where they have the same name, and go on beside each other where not', () => {
    const { heard, announcements } = setup()
    announcements.start({ ...times, rounds: 3 }, { interfaces: ['a'], id: 'x' })
    announcements.start({ ...times, rounds: 2 }, { interfaces: ['b'] })
    announcements.start({ ...times, rounds: 0 }, { id: 'x' })
    vi.runAllTimers()
    expect(heard).toEqual(['a 0', 'b 0', 'b 50'])
  })

  it('wait while the guest stands, here or because it has left, and end with the machine', () => {
    const { heard, machine, resume, listeners, announcements } = setup()
    machine.runState = 'paused'
    announcements.start(times, { interfaces: ['a'] })
    vi.advanceTimersByTime(1000)
    expect(heard).toEqual([])
    resume()
    vi.advanceTimersByTime(60)
    machine.runState = 'postmigrate'
    vi.runAllTimers()
    expect(heard).toEqual(['a 1000', 'a 1050'])
    expect(listeners.size).toBe(1)
    announcements[Symbol.dispose]()
    resume()
    announcements.start(times, { interfaces: ['b'] })
    announcements[Symbol.dispose]()
    vi.runAllTimers()
    expect(heard.slice(2)).toEqual([`b ${1000 + 200}`])
  })

  it('of one card that fails do not keep the others from theirs', () => {
    const { heard, machine, announcements } = setup()
    machine.devices[0]!.device = {
      announce() {
        throw new Error('no carrier')
      },
    }
    announcements.start({ ...times, rounds: 2 })
    vi.runAllTimers()
    expect(heard).toEqual(['b 0', 'b 50'])
  })
})
