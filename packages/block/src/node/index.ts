/** Images in files: backing chains, locks, and what `emu img` does. Node only. */
export { nodeClusterCompression } from './cluster-compression.ts'
export { type ConvertImageOptions, convertImage } from './convert-image.ts'
export { type CreateImageOptions, createImage } from './create-image.ts'
export { Drive, type DriveReplacement, type OpenDriveOptions } from './drive.ts'
export { type ImageInfo, imageInfo, type SnapshotInfo, snapshotInfo } from './image-info.ts'
export { type OpenFileOptions, openImageFile } from './node-image-file.ts'
export { type OpenImage, type OpenImageOptions, openImage } from './open-image.ts'
export { rawFile } from './raw-file.ts'
