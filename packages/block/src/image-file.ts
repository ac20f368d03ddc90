/** The file below an image format. Offsets and lengths are bytes, below 2^53. Calls may overlap in time. */
export interface ImageFile {
  /** For messages: its path. */
  readonly name: string
  readonly readOnly: boolean
  /** Bytes that it has now. */
  size(): Promise<number>
  /**
   * Fills all of `into`; what is behind the end reads as zeros.
   * @returns bytes that the file has there @throws ImageIoError
   */
  read(offset: number, into: Uint8Array): Promise<number>
  /** Makes the file longer where needed. `from` is borrowed until it settles. @throws ImageIoError the disk is full, say */
  write(offset: number, from: Uint8Array): Promise<void>
  /** Makes it shorter, or longer with zeros. @throws ImageIoError */
  truncate(bytes: number): Promise<void>
  /** Everything written so far is on stable storage. @throws ImageIoError */
  flush(): Promise<void>
  close(): Promise<void>
}

/** A file in memory, for tests and browsers. */
export function memoryImageFile(
  options: { readonly name?: string; readonly bytes?: Uint8Array; readonly readOnly?: boolean } = {},
): ImageFile {
  let bytes: Uint8Array = options.bytes?.slice() ?? new Uint8Array(0)
  let used = bytes.length
  const grow = (size: number) => {
    if (size > bytes.length) {
      const larger = new Uint8Array(Math.max(size, bytes.length * 2))
      larger.set(bytes.subarray(0, used))
      bytes = larger
    }
    used = Math.max(used, size)
  }
  return {
    name: options.name ?? 'memory',
    readOnly: options.readOnly ?? false,
    async size() {
      return used
    },
    async read(offset, into) {
      const found = bytes.subarray(Math.min(offset, used), Math.min(offset + into.length, used))
      into.set(found)
      into.fill(0, found.length)
      return found.length
    },
    async write(offset, from) {
      grow(offset + from.length)
      bytes.set(from, offset)
    },
    async truncate(size) {
      if (size < used) {
        bytes.fill(0, size, used)
        used = size
      } else grow(size)
    },
    async flush() {},
    async close() {},
  }
}
