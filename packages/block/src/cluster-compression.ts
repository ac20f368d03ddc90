import type { CompressionType } from './qcow2/header.ts'

/** Compresses single clusters. `nodeClusterCompression` of `@ferryvm/block/node`, or something else in a browser. */
export interface ClusterCompression {
  /**
   * @param data may go on behind the compressed bytes
   * @returns exactly `bytes` bytes, or a rejection
   */
  decompress(type: CompressionType, data: Uint8Array, bytes: number): Promise<Uint8Array>
  /** For zlib a raw deflate stream with a window of at most 4 KiB. */
  compress(type: CompressionType, cluster: Uint8Array): Promise<Uint8Array>
}
