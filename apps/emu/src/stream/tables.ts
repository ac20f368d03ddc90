import type { TableLookup } from '@ferryvm/stream'

/** {@link virtTables}, loaded when a section comes that its stream does not describe: that takes longer than most streams. */
export const deviceTables: TableLookup = async (section) => {
  const { virtTables } = await import('./virt-tables.ts')
  return virtTables(section)
}
