/** Disk images: raw and qcow2, over any file. Runs in Node and in browsers; files of Node are in `@ferryvm/block/node`. */
export type { ClusterCompression } from './cluster-compression.ts'
export {
  BackingChainError,
  ImageCorruptError,
  ImageError,
  ImageFeatureError,
  ImageFormatError,
  ImageIoError,
  ImageLockedError,
  ImageOpenError,
  ImageOptionError,
  ImageSnapshotError,
} from './errors.ts'
export { type ImageFile, memoryImageFile } from './image-file.ts'
export { Mirror, MirrorCancelledError, MirrorIoError, type MirrorOptions } from './mirror/mirror.ts'
export { IMAGE_FORMATS, type ImageFormat, PROBE_BYTES, probeFormat } from './probe-format.ts'
export { checkQcow2, type Qcow2CheckResult } from './qcow2/check.ts'
export { type CreateQcow2Options, createQcow2 } from './qcow2/create-qcow2.ts'
export type { CompressionType } from './qcow2/header.ts'
export { Qcow2Image, type Qcow2Options } from './qcow2/qcow2-image.ts'
export { type RepairResult, repairQcow2 } from './qcow2/repair.ts'
export type { SnapshotEntry } from './qcow2/snapshot-table.ts'
export { type RawImageOptions, rawImage } from './raw/raw-image.ts'
export { sizeText, snapshotList } from './snapshot-list.ts'
