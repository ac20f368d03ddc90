/** Memory is registered in chunks, counted from the start of a block. Spec: protocol.md section 11, "Pages". */
export const CHUNK_SHIFT = 20
export const CHUNK_BYTES = 1 << CHUNK_SHIFT

export const chunkOf = (offset: number): number => offset >>> CHUNK_SHIFT
export const chunkCount = (bytes: number): number => Math.ceil(bytes / CHUNK_BYTES)
/** Bytes of the block in front of the end of that chunk. */
export const chunkEnd = (chunk: number, blockBytes: number): number => Math.min((chunk + 1) * CHUNK_BYTES, blockBytes)
