/** Which chunks of a disk were written since somebody looked. Its owner disposes of it. */
export interface WriteLog extends Disposable {
  readonly granularityBytes: number
  /** Chunks that are marked. */
  readonly count: number
  /** The first marked chunk from that one on; -1: there is none. */
  next(from: number): number
  isMarked(chunk: number): boolean
  /** Before the chunk is read: what is written from then on marks it again. */
  clear(chunk: number): void
  /** All chunks that the range touches. */
  mark(offset: number, bytes: number): void
  /** Resolves at the next mark, or when it is disposed of. */
  marked(): Promise<void>
}

/** For whoever implements `BlockBackend.trackWrites`: a log without a mark. */
export function createWriteLog(capacityBytes: number, granularityBytes: number, disposed = () => {}): WriteLog {
  const chunks = Math.ceil(capacityBytes / granularityBytes)
  const bits = new Int32Array(Math.ceil(chunks / 32))
  let count = 0
  let change = Promise.withResolvers<void>()
  const isMarked = (chunk: number) => (bits[chunk >>> 5]! & (1 << (chunk & 31))) !== 0
  const changed = () => {
    change.resolve()
    change = Promise.withResolvers()
  }
  return {
    granularityBytes,
    get count() {
      return count
    },
    next(from) {
      for (let chunk = from; chunk < chunks; ) {
        const rest = bits[chunk >>> 5]! >>> (chunk & 31)
        if (rest !== 0) return chunk + 31 - Math.clz32(rest & -rest)
        chunk = (chunk | 31) + 1
      }
      return -1
    },
    isMarked,
    clear(chunk) {
      if (!isMarked(chunk)) return
      bits[chunk >>> 5]! &= ~(1 << (chunk & 31))
      count--
    },
    mark(offset, bytes) {
      const end = Math.min(Math.ceil((offset + bytes) / granularityBytes), chunks)
      for (let chunk = Math.floor(offset / granularityBytes); chunk < end; chunk++) {
        if (isMarked(chunk)) continue
        bits[chunk >>> 5]! |= 1 << (chunk & 31)
        count++
      }
      changed()
    },
    marked: () => change.promise,
    [Symbol.dispose]() {
      disposed()
      changed()
    },
  }
}
