import type { DiskSnapshot } from '@ferryvm/core'

const row = (id: string, tag: string, ...[size, date, clock, icount]: readonly string[]) =>
  [id.padEnd(7), tag.padEnd(16), size!.padStart(8), date!.padStart(19), clock!.padStart(15), icount!.padStart(10)].join(
    ' ',
  )

/** As `info snapshots` and `qemu-img snapshot -l` print it since QEMU 9; times are local. */
export function snapshotList(snapshots: readonly Omit<DiskSnapshot, 'dateNanoseconds'>[]): string[] {
  return [
    row('ID', 'TAG', 'VM_SIZE', 'DATE', 'VM_CLOCK', 'ICOUNT'),
    ...snapshots.map(({ id, name, vmStateBytes, dateSeconds, vmClockNs, icount }) =>
      row(id, name, sizeText(vmStateBytes), dateText(dateSeconds), clockText(vmClockNs), icount?.toString() ?? '--'),
    ),
  ]
}

/** Three digits and a unit: `1.95 GiB`. */
export function sizeText(bytes: number): string {
  const units = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei']
  let unit = 0
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1024
    unit++
  }
  return `${Number(bytes.toPrecision(3))} ${units[unit]}B`
}

const digits = (value: number | bigint, count: number) => String(value).padStart(count, '0')

function dateText(seconds: number): string {
  const d = new Date(seconds * 1000)
  const day = [d.getFullYear(), digits(d.getMonth() + 1, 2), digits(d.getDate(), 2)].join('-')
  return `${day} ${[d.getHours(), d.getMinutes(), d.getSeconds()].map((n) => digits(n, 2)).join(':')}`
}

function clockText(ns: bigint): string {
  const ms = ns / 1_000_000n
  const seconds = ms / 1000n
  const text = [digits(seconds / 3600n, 4), digits((seconds / 60n) % 60n, 2), digits(seconds % 60n, 2)].join(':')
  return `${text}.${digits(ms % 1000n, 3)}`
}
