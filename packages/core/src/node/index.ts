/** Channels over what Node has: streams and file descriptors. */
export { fromDuplex } from './from-duplex.ts'
export { type FdOptions, fromFd } from './from-fd.ts'
export { nodeCompressions } from './node-compressions.ts'
