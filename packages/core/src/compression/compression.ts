export type CompressionMethod = 'zlib' | 'zstd'

/** Compressors that a host brings: Node's own (`@ferryvm/core/node`), or a WebAssembly build in a browser. */
export type Compressions = Readonly<Partial<Record<CompressionMethod, Compression>>>

/** One format. What makes it fit for multifd: state is carried on, and after each piece the receiver has all of it. */
export interface Compression {
  /** Range of levels is the method's own. */
  createCompressor(level: number): Compressor
  createDecompressor(): Decompressor
  /** One complete stream. @param input must not change until this settles */
  compressWhole(input: Uint8Array, level: number): Promise<Uint8Array>
  /** @param into filled to its end @throws CompressionError as {@link Decompressor.decompress}; for small pieces, as it does not wait */
  decompressWhole(input: Uint8Array, into: Uint8Array): void
}
export interface Compressor {
  /**
   * Appends a piece to the stream, flushed so that it can be taken apart without what comes later.
   * @param input must not change until this settles
   */
  compress(input: Uint8Array): Promise<Uint8Array>
  close(): void
}
export interface Decompressor {
  /**
   * Takes the next piece apart.
   * @param into filled to its end
   * @throws CompressionError it is broken, or has more or less than that; memory for the rest is never taken
   */
  decompress(input: Uint8Array, into: Uint8Array): Promise<void>
  close(): void
}
