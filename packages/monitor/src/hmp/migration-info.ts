import { PARAMETERS, type ParameterDefinition, type ParameterValues } from '@ferryvm/migration'
import type { MonitorContext } from '../context.ts'

const kib = (bytes: number) => Math.floor(bytes / 1024)

/** Spec: protocol.md section 6. */
export function infoMigrate({ migration }: MonitorContext): string {
  const info = migration.info()
  const lines = [
    'globals:',
    'store-global-state: on',
    'only-migratable: off',
    'send-configuration: on',
    'send-section-footer: on',
    'send-switchover-start: off',
    'clear-bitmap-shift: 18',
  ]
  if (info.status) {
    const why = info.status === 'failed' && info['error-desc'] ? ` (${info['error-desc']})` : ''
    lines.push(`Migration status: ${info.status}${why}`)
  }
  const put = (label: string, value: number | undefined, unit: string) => {
    if (value !== undefined) lines.push(`${label}: ${value}${unit && ` ${unit}`}`)
  }
  put('total time', info['total-time'], 'ms')
  put('expected downtime', info['expected-downtime'], 'ms')
  put('downtime', info.downtime, 'ms')
  put('setup', info['setup-time'], 'ms')
  const { ram } = info
  if (ram) {
    put('transferred ram', kib(ram.transferred), 'kbytes')
    lines.push(`throughput: ${ram.mbps.toFixed(2)} mbps`)
    put('remaining ram', kib(ram.remaining), 'kbytes')
    put('total ram', kib(ram.total), 'kbytes')
    put('duplicate', ram.duplicate, 'pages')
    put('normal', ram.normal, 'pages')
    put('normal bytes', kib(ram['normal-bytes']), 'kbytes')
    put('dirty sync count', ram['dirty-sync-count'], '')
    put('page size', kib(ram['page-size']), 'kbytes')
    put('multifd bytes', kib(ram['multifd-bytes']), 'kbytes')
    put('pages-per-second', ram['pages-per-second'], '')
    if (ram['dirty-pages-rate']) put('dirty pages rate', ram['dirty-pages-rate'], 'pages')
    if (ram['postcopy-requests']) put('postcopy request count', ram['postcopy-requests'], '')
    if (ram['precopy-bytes']) put('precopy ram', kib(ram['precopy-bytes']), 'kbytes')
    if (ram['downtime-bytes']) put('downtime ram', kib(ram['downtime-bytes']), 'kbytes')
    if (ram['postcopy-bytes']) put('postcopy ram', kib(ram['postcopy-bytes']), 'kbytes')
  }
  const { disk } = info
  if (disk) {
    put('transferred disk', kib(disk.transferred), 'kbytes')
    put('remaining disk', kib(disk.remaining), 'kbytes')
    put('total disk', kib(disk.total), 'kbytes')
  }
  const xbzrle = info['xbzrle-cache']
  if (xbzrle) {
    put('cache size', xbzrle['cache-size'], 'bytes')
    put('xbzrle transferred', kib(xbzrle.bytes), 'kbytes')
    put('xbzrle pages', xbzrle.pages, 'pages')
    put('xbzrle cache miss', xbzrle['cache-miss'], 'pages')
    lines.push(`xbzrle cache miss rate: ${xbzrle['cache-miss-rate'].toFixed(2)}`)
    lines.push(`xbzrle encoding rate: ${xbzrle['encoding-rate'].toFixed(2)}`)
    put('xbzrle overflow', xbzrle.overflow, '')
  }
  const { compression } = info
  if (compression) {
    put('compression pages', compression.pages, 'pages')
    put('compression busy', compression.busy, '')
    lines.push(`compression busy rate: ${compression['busy-rate'].toFixed(2)}`)
    put('compressed size', kib(compression['compressed-size']), 'kbytes')
    lines.push(`compression rate: ${compression['compression-rate'].toFixed(2)}`)
  }
  put('cpu throttle percentage', info['cpu-throttle-percentage'], '')
  put('postcopy blocktime', info['postcopy-blocktime'], '')
  const waits = info['postcopy-vcpu-blocktime']
  if (waits) lines.push(`postcopy vcpu blocktime: [${waits.join(', ')}]`)
  const addresses = info['socket-address']
  if (addresses) {
    lines.push('socket address: [')
    for (const a of addresses) {
      lines.push(
        a.type === 'unix' ? `\tunix:${a.path}` : `\ttcp:${a.host.includes(':') ? `[${a.host}]` : a.host}:${a.port}`,
      )
    }
    lines.push(']')
  }
  for (const reason of info['blocked-reasons'] ?? []) lines.push(`blocked: ${reason}`)
  return `${lines.join('\n')}\n`
}

export function infoMigrateParameters({ migration }: MonitorContext): string {
  const lines = Object.entries(PARAMETERS).map(([name, definition]) => {
    const value = migration.parameters[name as keyof ParameterValues]
    const unit = (definition as ParameterDefinition).unit
    const text =
      typeof value === 'boolean' ? (value ? 'on' : 'off') : definition.kind.type === 'string' ? `'${value}'` : value
    return `${name}: ${text}${unit ? ` ${unit}` : ''}\n`
  })
  const { 'block-bitmap-mapping': mapping } = migration.parameters
  if (mapping) lines.push('block-bitmap-mapping:\n')
  for (const { 'node-name': node, alias, bitmaps } of mapping ?? []) {
    lines.push(`  '${node}' -> '${alias}'\n`)
    for (const { name, alias: bitmapAlias } of bitmaps) lines.push(`    '${name}' -> '${bitmapAlias}'\n`)
  }
  return lines.join('')
}

export const infoMigrateCapabilities = ({ migration }: MonitorContext): string =>
  migration.capabilities.map(({ capability, state }) => `${capability}: ${state ? 'on' : 'off'}\n`).join('')

/** In stream order: what is saved first stands first. Spec: stream.md section 8. */
export function infoSavevmHandlers({ machine }: MonitorContext): string {
  const entries = machine.sections.entries()
  const width = Math.max(4, ...entries.map((e) => e.idstr.length))
  const row = (name: string, instance: string, priority: string, version: string, kind: string) =>
    `${name.padEnd(width)}  ${instance.padStart(8)}  ${priority.padStart(8)}  ${version.padStart(7)}  ${kind}\n`
  return (
    row('name', 'instance', 'priority', 'version', 'sent') +
    entries
      .map((e) =>
        row(
          e.idstr,
          String(e.instanceId),
          String(e.priority),
          String(e.version),
          e.live ? 'in rounds, while the guest runs' : 'whole',
        ),
      )
      .join('')
  )
}
