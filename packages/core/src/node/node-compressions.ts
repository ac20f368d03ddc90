import type { Transform } from 'node:stream'
import * as zlib from 'node:zlib'
import type { Compression, Compressions, Compressor, Decompressor } from '../compression/compression.ts'
import { CompressionError } from '../errors/compression-error.ts'

const CHUNK_BYTES = 64 * 1024
type Flushing = Transform & { flush(kind: number, done: () => void): void }

/** Node's zlib and, from Node 22.15 on, zstd. They work on threads of Node's pool. */
export const nodeCompressions: Compressions = {
  zlib: {
    createCompressor: (level) =>
      compressor(zlib.createDeflate({ level, chunkSize: CHUNK_BYTES }), zlib.constants.Z_SYNC_FLUSH),
    createDecompressor: () => decompressor(zlib.createInflate({ chunkSize: CHUNK_BYTES })),
    compressWhole: (input, level) =>
      new Promise((resolve, reject) =>
        zlib.deflate(input, { level }, (error, data) => (error ? reject(error) : resolve(data))),
      ),
    decompressWhole: (input, into) => whole(() => zlib.inflateSync(input, { maxOutputLength: into.length }), into),
  },
  ...(typeof zlib.createZstdCompress === 'function' && { zstd: zstd() }),
}

function zstd(): Compression {
  const { ZSTD_c_compressionLevel, ZSTD_e_flush } = zlib.constants
  return {
    createCompressor: (level) =>
      compressor(
        zlib.createZstdCompress({ chunkSize: CHUNK_BYTES, params: { [ZSTD_c_compressionLevel]: level } }),
        ZSTD_e_flush,
      ),
    createDecompressor: () => decompressor(zlib.createZstdDecompress({ chunkSize: CHUNK_BYTES })),
    compressWhole: (input, level) =>
      new Promise((resolve, reject) =>
        zlib.zstdCompress(input, { params: { [ZSTD_c_compressionLevel]: level } }, (error, data) =>
          error ? reject(error) : resolve(data),
        ),
      ),
    decompressWhole: (input, into) =>
      whole(() => zlib.zstdDecompressSync(input, { maxOutputLength: into.length }), into),
  }
}

function whole(decompress: () => Uint8Array, into: Uint8Array): void {
  let data: Uint8Array
  try {
    data = decompress()
  } catch (cause) {
    throw new CompressionError(`the compressed data is broken: ${(cause as Error).message}`, { cause })
  }
  if (data.length !== into.length) {
    throw new CompressionError(`the compressed data holds ${data.length} bytes instead of ${into.length}`)
  }
  into.set(data)
}

function compressor(stream: Transform, flushKind: number): Compressor {
  const chunks: Uint8Array[] = []
  let failure: Error | undefined
  let fail: (error: Error) => void = () => {}
  stream.on('data', (chunk: Uint8Array) => chunks.push(chunk))
  stream.on('error', (cause) => {
    failure = new CompressionError(`cannot compress: ${cause.message}`, { cause })
    fail(failure)
  })
  return {
    compress: (input) =>
      new Promise((resolve, reject) => {
        if (failure) {
          reject(failure)
          return
        }
        fail = reject
        stream.write(input)
        ;(stream as Flushing).flush(flushKind, () => resolve(Buffer.concat(chunks.splice(0))))
      }),
    close: () => stream.destroy(),
  }
}

function decompressor(stream: Transform): Decompressor {
  let into: Uint8Array | undefined
  let filled = 0
  let fail: (error: Error) => void = () => {}
  let failure: Error | undefined
  const broken = (message: string, cause?: unknown) => {
    failure ??= new CompressionError(message, { cause })
    stream.destroy()
    fail(failure)
  }
  stream.on('data', (chunk: Uint8Array) => {
    if (failure || !into) return
    if (filled + chunk.length > into.length) {
      broken(`the compressed data holds more than ${into.length} bytes`)
      return
    }
    into.set(chunk, filled)
    filled += chunk.length
  })
  stream.on('error', (cause) => broken(`the compressed data is broken: ${cause.message}`, cause))
  return {
    decompress: (input, target) =>
      new Promise((resolve, reject) => {
        if (failure) {
          reject(failure)
          return
        }
        into = target
        filled = 0
        fail = reject
        stream.write(input, (error) => {
          if (failure || error) return // the error's own event says more
          if (filled === target.length) resolve()
          else broken(`the compressed data holds ${filled} bytes instead of ${target.length}`)
        })
      }),
    close: () => stream.destroy(),
  }
}
