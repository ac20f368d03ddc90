import type { BlockBackend } from '@ferryvm/core'

/** A disk in memory; counts what was asked of it. */
export function memoryDisk(bytes: Uint8Array, { readOnly = false } = {}): BlockBackend & { flushes: number } {
  return {
    capacityBytes: bytes.length,
    readOnly,
    flushes: 0,
    async read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length))
    },
    async write(offset, from) {
      bytes.set(from, offset)
    },
    async flush() {
      this.flushes++
    },
    async discard(offset, length) {
      bytes.fill(0, offset, offset + length)
    },
    async writeZeroes(offset, length) {
      bytes.fill(0, offset, offset + length)
    },
    async runAt(offset, most) {
      const kind = (at: number) => (bytes.subarray(at, at + 512).every((byte) => byte === 0) ? 'zero' : 'data')
      const first = kind(offset)
      let length = 512
      while (length < most && kind(offset + length) === first) length += 512
      return { bytes: length, kind: first }
    },
  }
}

/** Bytes that are different everywhere. */
export function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = i * 31 + (i >> 9) * 7 + seed
  return bytes
}
