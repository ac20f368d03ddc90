import { defineTraceEvents } from '@ferryvm/core'

/** Of QEMU's colo.c, colo-failover.c and ram.c. Spec: trace-events.md. */
export const trace = defineTraceEvents({
  colo_vm_state_change: { old: 'str', new: 'str' },
  colo_send_message: { msg: 'str' },
  colo_receive_message: { msg: 'str' },
  colo_failover_set_state: { new_state: 'str' },
  colo_flush_ram_cache_begin: { dirty_pages: 'u64' },
  colo_flush_ram_cache_end: {},
})
