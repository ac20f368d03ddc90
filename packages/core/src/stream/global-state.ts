import { VmstateMismatchError } from '../errors/vmstate-error.ts'
import type { RunState } from '../machine/machine.ts'
import { buffer, unused } from '../vmstate/array-rows.ts'
import { defineVmstate } from '../vmstate/define-vmstate.ts'
import { u8, u32 } from '../vmstate/scalar-rows.ts'
import type { StateOfVmstate } from '../vmstate/table.ts'
import { savevmTrace } from './savevm-trace.ts'
import { printable } from './stream-errors.ts'

/** Every name a stream may carry. */
export const RUN_STATES: ReadonlySet<string> = new Set<RunState>([
  'debug',
  'inmigrate',
  'internal-error',
  'io-error',
  'paused',
  'postmigrate',
  'prelaunch',
  'finish-migrate',
  'restore-vm',
  'running',
  'save-vm',
  'shutdown',
  'suspended',
  'watchdog',
  'guest-panicked',
  'colo',
])

/**
 * What the sender's machine was doing when it was stopped for the switch-over. Always 104 bytes; the two layouts in use
 * (100 bytes of name, or 32 and two flags) agree because no name reaches 32 bytes. Spec: stream.md section 9.
 */
export const globalStateVmstate = defineVmstate({
  name: 'globalstate',
  version: 1,
  fields: {
    /** Length of the name with its terminator; not looked at on load, as in the reference. */
    size: u32(),
    /** NUL padded. */
    runstate: buffer(32),
    has_vm_was_suspended: u8(),
    vm_was_suspended: u8(),
    unused: unused(66),
  },
  preSave(state) {
    if (savevmTrace.migrate_global_state_pre_save.enabled)
      savevmTrace.migrate_global_state_pre_save({ state: globalRunState(state) })
  },
  postLoad(state) {
    savevmTrace.migrate_global_state_post_load({ state: globalRunState(state) })
  },
})
export type GlobalState = StateOfVmstate<typeof globalStateVmstate>

export function setGlobalRunState(state: GlobalState, runState: RunState): void {
  const name = new TextEncoder().encode(runState)
  state.size = name.length + 1
  state.runstate.fill(0)
  state.runstate.set(name)
  state.has_vm_was_suspended = 1
  state.vm_was_suspended = 0
}

/** @throws VmstateMismatchError the name is none of ours */
export function globalRunState(state: GlobalState): RunState {
  const end = state.runstate.indexOf(0)
  const name = new TextDecoder().decode(state.runstate.subarray(0, end < 0 ? undefined : end))
  if (!RUN_STATES.has(name)) throw new VmstateMismatchError('runstate', `"${printable(name)}" is no run state`)
  return name as RunState
}
