/** Disks in files. Node only. */
export { rawFile } from './raw-file.ts'
