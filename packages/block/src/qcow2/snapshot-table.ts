/** The list of internal snapshots. Spec: the format's document, "Snapshots". */
import type { DiskSnapshot } from '@ferryvm/core'
import { ImageFormatError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'
import { clusterBytesOf, Field, MAX_L1_BYTES, type Qcow2Header } from './header.ts'

const ENTRY_BYTES = 40
const EXTRA_BYTES = 24
const MAX_EXTRA_BYTES = 1024
const MAX_TABLE_BYTES = 64 << 20
/** "No instruction count": guests here have none. */
const NO_ICOUNT = 0xffff_ffff_ffff_ffffn

export interface SnapshotEntry extends DiskSnapshot {
  /** Size of the disk at that time. */
  readonly diskBytes: number
  readonly l1TableOffset: number
  readonly l1Size: number
  /** Extra data that later versions have put in. */
  readonly unknownExtra: Uint8Array
}

/** @throws ImageFormatError */
export async function loadSnapshotTable(file: ImageFile, header: Qcow2Header): Promise<SnapshotEntry[]> {
  const { nbSnapshots, snapshotsOffset } = header
  const entries: SnapshotEntry[] = []
  if (nbSnapshots === 0) return entries
  const end = await file.size()
  const refuse = (at: number, problem: string): never => {
    throw new ImageFormatError(file.name, `snapshot table, entry ${entries.length}`, at, problem)
  }
  let at = snapshotsOffset
  for (let i = 0; i < nbSnapshots; i++) {
    if (at + ENTRY_BYTES > end) refuse(at, 'it is behind the end of the file')
    if (at - snapshotsOffset > MAX_TABLE_BYTES) refuse(at, `the table is longer than ${MAX_TABLE_BYTES} bytes`)
    const fixed = new Uint8Array(ENTRY_BYTES)
    await file.read(at, fixed)
    const view = new DataView(fixed.buffer)
    const idBytes = view.getUint16(12)
    const nameBytes = view.getUint16(14)
    const extraBytes = view.getUint32(36)
    if (extraBytes > MAX_EXTRA_BYTES) refuse(at + 36, `${extraBytes} bytes of extra data`)
    const rest = new Uint8Array(extraBytes + idBytes + nameBytes)
    await file.read(at + ENTRY_BYTES, rest)
    const extra = new DataView(rest.buffer, 0, extraBytes)
    const vmState = extraBytes >= 8 ? extra.getBigUint64(0) : BigInt(view.getUint32(32))
    if (vmState > BigInt(Number.MAX_SAFE_INTEGER)) refuse(at + ENTRY_BYTES, `a VM state of ${vmState} bytes`)
    const disk = extraBytes >= 16 ? extra.getBigUint64(8) : BigInt(header.size)
    if (disk > BigInt(Number.MAX_SAFE_INTEGER)) refuse(at + ENTRY_BYTES + 8, `a disk of ${disk} bytes`)
    const icount = extraBytes >= 24 ? extra.getBigUint64(16) : NO_ICOUNT
    const l1TableOffset = view.getBigUint64(0)
    if (l1TableOffset % BigInt(clusterBytesOf(header)) !== 0n || l1TableOffset > BigInt(end)) {
      refuse(at, `its L1 table is at ${l1TableOffset}`)
    }
    const l1Size = view.getUint32(8)
    if (l1Size * 8 > MAX_L1_BYTES) refuse(at + 8, `an L1 table of ${l1Size} entries`)
    const text = (from: number, length: number) => new TextDecoder().decode(rest.subarray(from, from + length))
    entries.push({
      id: text(extraBytes, idBytes),
      name: text(extraBytes + idBytes, nameBytes),
      dateSeconds: view.getUint32(16),
      dateNanoseconds: view.getUint32(20),
      vmClockNs: view.getBigUint64(24),
      vmStateBytes: Number(vmState),
      diskBytes: Number(disk),
      icount: icount === NO_ICOUNT ? undefined : icount,
      l1TableOffset: Number(l1TableOffset),
      l1Size,
      unknownExtra: rest.slice(EXTRA_BYTES, Math.max(EXTRA_BYTES, extraBytes)),
    })
    at += Math.ceil((ENTRY_BYTES + rest.length) / 8) * 8
  }
  return entries
}

export function formatSnapshotTable(entries: readonly SnapshotEntry[]): Uint8Array {
  const parts = entries.map(formatEntry)
  const bytes = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

function formatEntry(entry: SnapshotEntry): Uint8Array {
  const encoder = new TextEncoder()
  const id = encoder.encode(entry.id)
  const name = encoder.encode(entry.name)
  const extraBytes = EXTRA_BYTES + entry.unknownExtra.length
  const bytes = new Uint8Array(Math.ceil((ENTRY_BYTES + extraBytes + id.length + name.length) / 8) * 8)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(entry.l1TableOffset))
  view.setUint32(8, entry.l1Size)
  view.setUint16(12, id.length)
  view.setUint16(14, name.length)
  view.setUint32(16, entry.dateSeconds)
  view.setUint32(20, entry.dateNanoseconds)
  view.setBigUint64(24, entry.vmClockNs)
  // Readers of the long field ignore the short one.
  view.setUint32(32, entry.vmStateBytes < 2 ** 32 ? entry.vmStateBytes : 0)
  view.setUint32(36, extraBytes)
  view.setBigUint64(40, BigInt(entry.vmStateBytes))
  view.setBigUint64(48, BigInt(entry.diskBytes))
  view.setBigUint64(56, entry.icount ?? NO_ICOUNT)
  bytes.set(entry.unknownExtra, ENTRY_BYTES + EXTRA_BYTES)
  bytes.set(id, ENTRY_BYTES + extraBytes)
  bytes.set(name, ENTRY_BYTES + extraBytes + id.length)
  return bytes
}

/** `nb_snapshots` and `snapshots_offset`, which stand side by side: one write replaces the whole list. */
export function tablePlace(count: number, offset: number): { readonly at: number; readonly bytes: Uint8Array } {
  const bytes = new Uint8Array(12)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, count)
  view.setBigUint64(4, BigInt(offset))
  return { at: Field.nbSnapshots, bytes }
}
