import type { BlockBackend } from '@ferryvm/core'

/** A disk in memory. The bytes are the caller's: what the guest writes shows up in them. */
export function memoryBlock(bytes: Uint8Array, options: { readonly readOnly?: boolean } = {}): BlockBackend {
  return {
    capacityBytes: bytes.length - (bytes.length % 512),
    readOnly: options.readOnly ?? false,
    async read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length))
    },
    async write(offset, from) {
      bytes.set(from, offset)
    },
    async flush() {},
    async writeZeroes(offset, length) {
      bytes.fill(0, offset, offset + length)
    },
  }
}
