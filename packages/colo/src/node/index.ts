/** The parts of COLO that need Node. */
export { lockFileFence } from './lock-file-fence.ts'
