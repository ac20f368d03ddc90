import type { TableLookup } from '@ferryvm/stream'

/** {@link virtTables}, loaded when a section comes that its stream does not describe: that takes longer than most streams. */
export const deviceTables: TableLookup = async (section) => {
  // No stream describes what virtio devices save of their own; these are few.
  if (section.virtio) {
    const { virtioTables } = await import('@ferryvm/devices-virtio/tables')
    return virtioTables[section.idstr.slice(section.idstr.lastIndexOf('/') + 1)]?.(section.virtio)
  }
  const { virtTables } = await import('./virt-tables.ts')
  return virtTables(section)
}
