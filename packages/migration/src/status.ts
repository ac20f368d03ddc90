/** Spec: protocol.md section 1. The COLO name is known but not reached yet. */
export type MigrationStatus =
  | 'none'
  | 'setup'
  | 'cancelling'
  | 'cancelled'
  | 'active'
  | 'postcopy-active'
  | 'postcopy-paused'
  | 'postcopy-recover-setup'
  | 'postcopy-recover'
  | 'completed'
  | 'failed'
  | 'colo'
  | 'pre-switchover'
  | 'device'
  | 'wait-unplug'

const RUNNING: ReadonlySet<MigrationStatus> = new Set<MigrationStatus>([
  'setup',
  'cancelling',
  'active',
  'postcopy-active',
  'postcopy-paused',
  'postcopy-recover-setup',
  'postcopy-recover',
  'colo',
  'pre-switchover',
  'device',
  'wait-unplug',
])
/** Another migration, and changes of capabilities, are refused in these. */
export const isRunning = (status: MigrationStatus): boolean => RUNNING.has(status)
