import { type Cpu, defineVmstate, i64, type SaveStateRegistry, unused, type VirtualClock } from '@ferryvm/core'

/** Spec: virt-vmstate.md section 3. */
export const timerVmstate = defineVmstate({
  name: 'timer',
  version: 2,
  minimumVersion: 1,
  fields: {
    /** Host ticks of the sender, meaningless elsewhere: sent as zero. */
    cpu_ticks_offset: i64(),
    unused: unused(8),
    /** Virtual time in ns at which the machine was stopped. */
    cpu_clock_offset: i64({ since: 2 }),
  },
})

/**
 * Registers the section that carries virtual time. mtime has no section: receivers compute it from this value with a
 * delta of zero, so what is sent is the time that makes their mtime equal ours.
 */
export function registerTimerSection(sections: SaveStateRegistry, clock: VirtualClock, cpu: () => Cpu): void {
  const state = timerVmstate.createState()
  const NS_PER_TICK = 100n
  const vmstate: typeof timerVmstate = {
    ...timerVmstate,
    preSave(s) {
      s.cpu_ticks_offset = 0n
      s.cpu_clock_offset = clock.ns + cpu().timeDelta * NS_PER_TICK
    },
    postLoad(s) {
      clock.set(s.cpu_clock_offset)
      cpu().timeDelta = 0n
    },
  }
  sections.register(vmstate, state)
}
