/** Channels over what Node has: streams and file descriptors; compression, trace events, reasons of failures. */

export { fromDuplex } from './from-duplex.ts'
export { type FdOptions, fromFd } from './from-fd.ts'
export { nodeCompressions } from './node-compressions.ts'
export { systemErrorReason } from './system-error-reason.ts'
export { publishTraceEvents } from './trace-channels.ts'
