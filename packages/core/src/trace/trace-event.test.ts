import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, describe, expect, it } from 'vitest'
import { publishTraceEvents } from '../node/trace-channels.ts'
import { defineTraceEvents, onTrace, switchTraceEvents, traceEvents } from './trace-event.ts'

const trace = defineTraceEvents({
  test_ship_sails: { name: 'str', knots: 'u32' },
  test_ship_sinks: { name: 'str' },
})

describe('trace events', () => {
  afterEach(() => void switchTraceEvents('test_*', false))

  it('are silent until a pattern switches them on', () => {
    const seen: unknown[] = []
    using _ = onTrace((event, values) => void seen.push([event, values]))
    trace.test_ship_sails({ name: 'Ferry', knots: 20 })
    expect(trace.test_ship_sails.enabled).toBe(false)
    expect(switchTraceEvents('test_ship_sa*', true)).toBe(1)
    expect(switchTraceEvents('test_ship_s?????', true)).toBe(0)
    trace.test_ship_sails({ name: 'Ferry', knots: 21 })
    trace.test_ship_sinks({ name: 'Ferry' })
    expect(seen).toEqual([['test_ship_sails', { name: 'Ferry', knots: 21 }]])
    switchTraceEvents('test_ship_sails', false)
    trace.test_ship_sails({ name: 'Ferry', knots: 22 })
    expect(seen).toHaveLength(1)
  })

  it('heed patterns that came before them, the last one counts', () => {
    switchTraceEvents('test_late_*', true)
    switchTraceEvents('test_late_off', false)
    const late = defineTraceEvents({ test_late_on: {}, test_late_off: {} })
    expect([late.test_late_on.enabled, late.test_late_off.enabled]).toEqual([true, false])
    expect(defineTraceEvents({ test_late_on: {} }).test_late_on).toBe(late.test_late_on)
  })

  it('are known with their arguments', () => {
    expect(traceEvents().find(({ event }) => event === 'test_ship_sails')!.args).toEqual({ name: 'str', knots: 'u32' })
  })

  it('go to diagnostics_channel', () => {
    const seen: unknown[] = []
    const hear = (message: unknown) => void seen.push(message)
    subscribe('ferryvm:test_ship_sinks', hear)
    switchTraceEvents('test_ship_sinks', true)
    {
      using _ = publishTraceEvents()
      trace.test_ship_sinks({ name: 'Ferry' })
    }
    trace.test_ship_sinks({ name: 'Raft' })
    unsubscribe('ferryvm:test_ship_sinks', hear)
    expect(seen).toEqual([{ name: 'Ferry' }])
  })
})
