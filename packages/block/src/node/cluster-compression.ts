import { promisify } from 'node:util'
import { constants, deflateRaw, inflateRaw, zstdCompress, zstdDecompress } from 'node:zlib'
import type { ClusterCompression } from '../cluster-compression.ts'

/** The format's decompressors have a window of 4 KiB. */
const WINDOW_BITS = 12

/** Node's zlib. */
export const nodeClusterCompression: ClusterCompression = {
  async decompress(type, data, bytes) {
    // What follows the compressed data in its last sector belongs to somebody else.
    const cluster =
      type === 'zlib'
        ? await promisify(inflateRaw)(data, {
            windowBits: WINDOW_BITS,
            maxOutputLength: bytes,
            finishFlush: constants.Z_SYNC_FLUSH,
          })
        : await promisify(zstdDecompress)(data.subarray(0, zstdFrameBytes(data)), { maxOutputLength: bytes })
    if (cluster.length !== bytes) throw new Error(`it has ${cluster.length} bytes, and a cluster has ${bytes}`)
    return cluster
  },
  async compress(type, cluster) {
    return type === 'zlib'
      ? promisify(deflateRaw)(cluster, { windowBits: WINDOW_BITS, memLevel: 9 })
      : promisify(zstdCompress)(cluster)
  },
}

/** Length of the frame at the start. Spec: RFC 8878, section 3.1.1. @throws Error it is none */
function zstdFrameBytes(data: Uint8Array): number {
  const cut = () => new Error('the zstd frame is cut short')
  if (data.length < 6) throw cut()
  const descriptor = data[4]!
  const singleSegment = (descriptor & 0x20) !== 0
  const sizeFlag = descriptor >> 6
  const contentSizeBytes = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 2 ** sizeFlag
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3]!
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes
  for (;;) {
    if (at + 3 > data.length) throw cut()
    const header = data[at]! | (data[at + 1]! << 8) | (data[at + 2]! << 16)
    const type = (header >> 1) & 3
    // A run of one byte has that byte only.
    at += 3 + (type === 1 ? 1 : header >> 3)
    if (header & 1) return at + (descriptor & 4 ? 4 : 0)
  }
}
