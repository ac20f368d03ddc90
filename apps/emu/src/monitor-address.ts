import { UsageError } from './usage-error.ts'

/** Where a monitor of another process listens. @param option for the message @throws UsageError */
export function monitorAddress(option: string, text: string): string | { host: string; port: number } {
  const unix = /^unix:([^,]+)$/.exec(text)
  if (unix) return unix[1]!
  const tcp = /^tcp:(.*):(\d+)$/.exec(text)
  if (!tcp) throw new UsageError(`${option} ${text}: unix:F or tcp:H:P`)
  return { host: tcp[1]!.replace(/^\[|\]$/g, '') || '127.0.0.1', port: Number(tcp[2]) }
}
