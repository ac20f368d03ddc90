import type { Machine } from '@ferryvm/core'
import { virtioTables } from '@ferryvm/devices-virtio/tables'
import type { dumpTables } from '@ferryvm/stream'

/** A machine's tables, in stream order; what virtio devices have in their one field `virtio` stands behind them. */
export function sectionTables(machine: Machine): Parameters<typeof dumpTables>[1] {
  return machine.sections.entries().flatMap(({ idstr, device }) => {
    if (!device) return []
    const { vmstate } = device
    const inside = virtioTables[vmstate.name]?.({ queues: 1, guestFeatures: 0xffff_ffff })
    return [{ type: idstr, vmstate }, ...(inside ? [{ type: `${idstr}/device`, vmstate: inside }] : [])]
  })
}
