import { defineTraceEvents } from '../trace/trace-event.ts'

/** Of tables and their rows. Names and arguments: trace-events.md, "vmstate.c". While one is on, tables are interpreted. */
export const vmstateTrace = defineTraceEvents({
  vmstate_load_state: { name: 'str', version_id: 'int' },
  vmstate_load_state_end: { name: 'str', reason: 'str', val: 'int' },
  vmstate_load_state_field: { name: 'str', field: 'str', exists: 'bool' },
  vmstate_load_field_error: { field: 'str', ret: 'int' },
  vmstate_subsection_load: { parent: 'str' },
  vmstate_subsection_load_good: { parent: 'str' },
  vmstate_subsection_load_bad: { parent: 'str', sub: 'str', sub2: 'str' },
  vmstate_save_state_top: { idstr: 'str' },
  vmstate_save_state_loop: { name: 'str', field: 'str', n_elems: 'int' },
  vmstate_subsection_save_top: { idstr: 'str' },
  vmstate_subsection_save_loop: { name: 'str', sub: 'str' },
})

const events = Object.values(vmstateTrace)
export const vmstateTraced = (): boolean => events.some((event) => event.enabled)
