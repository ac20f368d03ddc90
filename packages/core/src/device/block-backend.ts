import type { DirtyBitmaps } from './dirty-bitmaps.ts'
import type { DiskSnapshots } from './disk-snapshots.ts'
import type { WriteLog } from './write-log.ts'

/** A part of a disk that is alike. */
export interface DiskRun {
  readonly bytes: number
  /** `zero`: reads as zeros, without a look. `backing`: is not in this image but in the one below. */
  readonly kind: 'data' | 'zero' | 'backing'
}

/** Where the sectors of a disk are. Offsets and lengths are bytes, multiples of 512. Calls may overlap in time. */
export interface BlockBackend {
  readonly capacityBytes: number
  readonly readOnly: boolean
  /** Fills all of `into`. Rejects on an I/O error. */
  read(offset: number, into: Uint8Array): Promise<void>
  /** `from` is borrowed until it settles. Rejects on an I/O error. */
  write(offset: number, from: Uint8Array): Promise<void>
  /** Resolves when everything written so far is on stable storage. */
  flush(): Promise<void>
  /** The contents of the range may be forgotten. Absent: discarding does nothing. */
  discard?(offset: number, bytes: number): Promise<void>
  /** Absent: zeros are written. */
  writeZeroes?(offset: number, bytes: number): Promise<void>
  /**
   * What is at that place, which exists.
   * @returns a run of 1 to `bytes` bytes, whole sectors. Absent: everything is data.
   */
  runAt?(offset: number, bytes: number): Promise<DiskRun>
  /**
   * From now on a write marks what it touched, when it is done, whoever wrote it. While somebody tracks writes the disk cannot be
   * given up. Absent: a disk cannot be copied while it is in use.
   */
  trackWrites?(granularityBytes: number): WriteLog
  /** What was written since when, for whoever backs it up. Absent: nobody remembers. */
  readonly bitmaps?: DirtyBitmaps
  /**
   * Everything is written, and somebody else (a destination that shares the file) may use it from now on; reading and
   * writing fail until {@link activate}. Absent: the disk is only ever this machine's.
   */
  inactivate?(): Promise<void>
  /** It is this machine's from now on, whatever was known of it before. Rejects where somebody else has it. */
  activate?(): Promise<void>
  /** Absent: the image has no place for them. */
  readonly snapshots?: DiskSnapshots
  /** Called once, when the machine goes away. */
  close?(): Promise<void>
}
