import { type GuestMemory, PAGE_BYTES } from '@ferryvm/core'
import type { OutgoingMigration } from './outgoing.ts'
import type { CompressionInfo } from './ram/compress/compressed-pages.ts'
import type { RamSaver } from './ram/ram-save.ts'
import type { XbzrleCacheInfo } from './ram/xbzrle/xbzrle-pages.ts'
import type { MigrationStatus } from './status.ts'

/** `query-migrate`. Member names are the protocol's. Spec: protocol.md section 3. */
export interface MigrationInfo {
  status?: MigrationStatus
  /** ms */
  'total-time'?: number
  /** ms */
  'expected-downtime'?: number
  /** ms */
  downtime?: number
  /** ms */
  'setup-time'?: number
  ram?: MigrationStatsInfo
  /** While disks are sent, with `migrate -b`. */
  disk?: MigrationStatsInfo
  /** With capability compress. */
  compression?: CompressionInfo
  /** While the guest is slowed down. */
  'cpu-throttle-percentage'?: number
  /** With capability xbzrle. */
  'xbzrle-cache'?: XbzrleCacheInfo
  'error-desc'?: string
  'blocked-reasons'?: string[]
  'socket-address'?: SocketAddressInfo[]
  /** ms in which no hart could go on, of a guest that arrived by postcopy. */
  'postcopy-blocktime'?: number
  /** ms that each hart waited for pages. */
  'postcopy-vcpu-blocktime'?: number[]
}
export interface MigrationStatsInfo {
  transferred: number
  remaining: number
  total: number
  duplicate: number
  skipped: number
  normal: number
  'normal-bytes': number
  'dirty-pages-rate': number
  /** Megabits per second. */
  mbps: number
  'dirty-sync-count': number
  'postcopy-requests': number
  'page-size': number
  'multifd-bytes': number
  'pages-per-second': number
  'precopy-bytes': number
  'downtime-bytes': number
  'postcopy-bytes': number
  'dirty-sync-missed-zero-copy': number
}
export type SocketAddressInfo = { type: 'inet'; host: string; port: string } | { type: 'unix'; path: string }

const WITH_RAM: ReadonlySet<MigrationStatus> = new Set<MigrationStatus>([
  'active',
  'cancelling',
  'device',
  'pre-switchover',
  'postcopy-active',
  'postcopy-paused',
  'postcopy-recover-setup',
  'postcopy-recover',
  'completed',
])

export function outgoingInfo(status: MigrationStatus, run: OutgoingMigration, ram: RamSaver): MigrationInfo {
  const { stats } = run
  const info: MigrationInfo = { status }
  if (!WITH_RAM.has(status)) return info
  info['total-time'] = Math.round(stats.totalMs ?? performance.now() - stats.startedMs)
  const pages = run.postcopy?.pages
  if (status === 'completed' || pages) info.downtime = Math.round(stats.downtimeMs ?? 0)
  else info['expected-downtime'] = Math.round(stats.expectedDowntimeMs)
  info['setup-time'] = Math.round(stats.setupMs)
  const completed = status === 'completed'
  const transferred = run.bytesAccepted
  info.ram = {
    transferred,
    remaining: completed ? 0 : (pages ?? ram).remainingBytes,
    total: ram.totalBytes,
    duplicate: ram.stats.zeroPages,
    skipped: 0,
    normal: ram.stats.normalPages,
    'normal-bytes': ram.stats.normalPages * PAGE_BYTES,
    'dirty-pages-rate': ram.stats.dirtyPagesRate,
    mbps: stats.mbps,
    'dirty-sync-count': ram.stats.syncCount,
    'postcopy-requests': pages?.stats.requests ?? 0,
    'page-size': PAGE_BYTES,
    'multifd-bytes': run.multifdBytes,
    'pages-per-second': Math.round(stats.pagesPerSecond),
    'precopy-bytes': completed || pages ? stats.precopyBytes : transferred,
    'downtime-bytes': completed || pages ? stats.downtimeBytes : 0,
    'postcopy-bytes': pages ? transferred - stats.precopyBytes - stats.downtimeBytes : 0,
    'dirty-sync-missed-zero-copy': 0,
  }
  if (run.throttlePercent > 0) info['cpu-throttle-percentage'] = run.throttlePercent
  return Object.assign(info, ram.report())
}

/** Of a guest that runs before its memory has been read. */
export function lazyRamInfo(memory: GuestMemory, transferred: number): MigrationStatsInfo {
  const { missing } = memory
  const blocks = memory.migratableBlocks()
  return {
    ...NO_STATS,
    transferred,
    remaining: missing.count * PAGE_BYTES,
    total: blocks.reduce((bytes, block) => bytes + block.sizeBytes, 0),
    normal: transferred / PAGE_BYTES,
    'normal-bytes': transferred,
    'postcopy-requests': missing.stats.waits,
    'postcopy-bytes': transferred,
  }
}
/** Nothing yet. */
export const NO_STATS: MigrationStatsInfo = {
  transferred: 0,
  remaining: 0,
  total: 0,
  duplicate: 0,
  skipped: 0,
  normal: 0,
  'normal-bytes': 0,
  'dirty-pages-rate': 0,
  mbps: 0,
  'dirty-sync-count': 0,
  'postcopy-requests': 0,
  'page-size': PAGE_BYTES,
  'multifd-bytes': 0,
  'pages-per-second': 0,
  'precopy-bytes': 0,
  'downtime-bytes': 0,
  'postcopy-bytes': 0,
  'dirty-sync-missed-zero-copy': 0,
}
