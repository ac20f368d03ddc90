/** Where the sectors of a disk are. Offsets and lengths are bytes, multiples of 512. Calls may overlap in time. */
export interface BlockBackend {
  readonly capacityBytes: number
  readonly readOnly: boolean
  /** Fills all of `into`. Rejects on an I/O error. */
  read(offset: number, into: Uint8Array): Promise<void>
  /** `from` is borrowed until it settles. Rejects on an I/O error. */
  write(offset: number, from: Uint8Array): Promise<void>
  /** Resolves when everything written so far is on stable storage. */
  flush(): Promise<void>
  /** The contents of the range may be forgotten. Absent: discarding does nothing. */
  discard?(offset: number, bytes: number): Promise<void>
  /** Absent: zeros are written. */
  writeZeroes?(offset: number, bytes: number): Promise<void>
  /** Called once, when the machine goes away. */
  close?(): Promise<void>
}

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
