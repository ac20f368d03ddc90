import { stat } from 'node:fs/promises'
import type { DiskSnapshot } from '@ferryvm/core'
import { backingPath, type OpenImage } from './open-image.ts'

/** `emu img info --output=json`; member names are those of `qemu-img`. */
export interface ImageInfo {
  readonly filename: string
  readonly format: string
  /** Of the disk, bytes. */
  readonly 'virtual-size': number
  /** What the file takes on the host, bytes. */
  readonly 'actual-size': number
  readonly 'cluster-size'?: number
  readonly 'dirty-flag': boolean
  readonly 'backing-filename'?: string
  readonly 'full-backing-filename'?: string
  readonly 'backing-filename-format'?: string
  readonly snapshots?: readonly SnapshotInfo[]
  readonly 'format-specific'?: { readonly type: string; readonly data: Readonly<Record<string, unknown>> }
}

export interface SnapshotInfo {
  readonly id: string
  readonly name: string
  readonly 'vm-state-size': number
  readonly 'date-sec': number
  readonly 'date-nsec': number
  readonly 'vm-clock-sec': number
  readonly 'vm-clock-nsec': number
  readonly icount?: number
}

export async function imageInfo(image: OpenImage): Promise<ImageInfo> {
  const { path, format, backend, qcow2 } = image
  const info = {
    'virtual-size': qcow2?.header.size ?? backend.capacityBytes,
    filename: path,
    format,
    'actual-size': (await stat(path)).blocks * 512,
    'dirty-flag': qcow2?.header.dirty ?? false,
  }
  if (!qcow2) return info
  const { header } = qcow2
  const snapshots = qcow2.snapshots.list()
  const { backingFile, backingFormat } = header
  return {
    ...info,
    'cluster-size': qcow2.clusterBytes,
    ...(backingFile !== undefined && {
      'backing-filename': backingFile,
      'full-backing-filename': backingPath(path, backingFile),
    }),
    ...(backingFormat !== undefined && { 'backing-filename-format': backingFormat }),
    ...(snapshots.length > 0 && { snapshots: snapshots.map(snapshotInfo) }),
    'format-specific': { type: 'qcow2', data: specifics(image) },
  }
}

function specifics({ qcow2 }: OpenImage): Record<string, unknown> {
  const { header } = qcow2!
  if (header.version === 2) return { compat: '0.10', 'compression-type': 'zlib', 'refcount-bits': 16 }
  return {
    compat: '1.1',
    'compression-type': header.compressionType,
    'lazy-refcounts': header.lazyRefcounts,
    'refcount-bits': 2 ** header.refcountOrder,
    corrupt: header.corrupt,
    'extended-l2': false,
  }
}

export function snapshotInfo(entry: DiskSnapshot): SnapshotInfo {
  return {
    id: entry.id,
    name: entry.name,
    'vm-state-size': entry.vmStateBytes,
    'date-sec': entry.dateSeconds,
    'date-nsec': entry.dateNanoseconds,
    'vm-clock-sec': Number(entry.vmClockNs / 1_000_000_000n),
    'vm-clock-nsec': Number(entry.vmClockNs % 1_000_000_000n),
    ...(entry.icount !== undefined && { icount: Number(entry.icount) }),
  }
}
