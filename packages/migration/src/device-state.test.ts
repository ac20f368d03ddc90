import { defineVmstate, globalStateVmstate, switchTraceEvents, u64 } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import type { MigrationContext } from './context.ts'
import { loadDeviceState, rehearse, saveDeviceState } from './device-state.ts'
import { createFakeMachine } from './testing/fake-machine.ts'

/** A machine that stands, with one device more, and what was said about it. */
function waiting(hooks: { preSave?: () => void; postLoad?: () => void } = {}) {
  const machine = createFakeMachine()
  const vmstate = defineVmstate({ name: 'extra', version: 1, fields: { count: u64() }, ...hooks })
  const extra = vmstate.createState()
  machine.sections.register(vmstate, extra)
  const words: string[] = []
  const log = { debug: (word: string) => words.push(word), warn: (word: string) => words.push(word), guestError() {} }
  const capabilities = { get: () => false }
  const globalState = globalStateVmstate.createState()
  const context = {
    globalState,
    machine,
    settings: {},
    log,
    capabilities,
    parameters: { values: {} },
  } as unknown as MigrationContext
  return { machine, extra, context, words }
}

describe('device state by itself', () => {
  it('is loaded as it was saved', async () => {
    const { machine, extra, context } = waiting()
    machine.device.value = 5
    extra.count = 7n
    const bytes = await saveDeviceState(context)
    machine.device.value = 0
    extra.count = 0n
    await loadDeviceState(context, bytes)
    expect([machine.device.value, extra.count]).toEqual([5, 7n])
  })

  it('is the same after a rehearsal, which runs the hooks of devices', async () => {
    let loads = 0
    const { machine, context, words } = waiting({ postLoad: () => void loads++ })
    machine.device.value = 5
    const before = await saveDeviceState(context)
    await rehearse(context)
    expect(loads).toBeGreaterThan(0)
    expect(await saveDeviceState(context)).toEqual(before)
    expect(words).toEqual([])
  })

  it('is not rehearsed while somebody traces', async () => {
    let loads = 0
    const { context } = waiting({ postLoad: () => void loads++ })
    switchTraceEvents('vmstate_load', true)
    try {
      await rehearse(context)
    } finally {
      switchTraceEvents('vmstate_load', false)
    }
    expect(loads).toBe(0)
  })

  it('a device that fails at a rehearsal keeps nobody from arriving', async () => {
    const { context, words } = waiting({
      postLoad() {
        throw new Error('no guest here')
      },
    })
    await rehearse(context)
    expect(words).toEqual(['the rehearsal of loading failed'])
  })
})
