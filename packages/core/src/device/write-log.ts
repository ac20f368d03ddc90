/** Which chunks of a disk were written since somebody looked. Its owner disposes of it. */
export interface WriteLog extends Disposable {
  readonly granularityBytes: number
  /** Of the disk. */
  readonly chunks: number
  /** Chunks that are marked. */
  readonly count: number
  /** A bit for each chunk, the lowest of a byte first, as whole words of eight bytes: not a copy, and not to be written to. */
  readonly bits: Uint8Array
  /** The first marked chunk from that one on; -1: there is none. */
  next(from: number): number
  isMarked(chunk: number): boolean
  /** Before the chunk is read: what is written from then on marks it again. */
  clear(chunk: number): void
  /** All chunks that the range touches. */
  mark(offset: number, bytes: number): void
  /**
   * Marks the chunks whose bits are set; `first`, the chunk of the first bit, is a multiple of 32.
   * @throws RangeError there are bits behind the last chunk; nothing was marked
   */
  markBits(first: number, bits: Uint8Array): void
  /** Resolves at the next mark, or when it is disposed of. */
  marked(): Promise<void>
}

/** Their bits take 256 MiB. */
const MAX_CHUNKS = 2 ** 31 - 64

/** For whoever implements `BlockBackend.trackWrites`: a log without a mark. */
export function createWriteLog(capacityBytes: number, granularityBytes: number, disposed = () => {}): WriteLog {
  const chunks = Math.ceil(capacityBytes / granularityBytes)
  if (chunks > MAX_CHUNKS) throw new RangeError(`${chunks} chunks of ${granularityBytes} bytes are too many to track`)
  // Bits are little-endian in memory, as JavaScript's hosts all are.
  const bits = new Int32Array(Math.ceil(chunks / 64) * 2)
  const bytes = new Uint8Array(bits.buffer)
  let count = 0
  let change = Promise.withResolvers<void>()
  const isMarked = (chunk: number) => (bits[chunk >>> 5]! & (1 << (chunk & 31))) !== 0
  const changed = () => {
    change.resolve()
    change = Promise.withResolvers()
  }
  const set = (word: number, marks: number) => {
    const added = marks & ~bits[word]!
    bits[word]! |= marks
    count += bitsOf(added)
  }
  return {
    granularityBytes,
    chunks,
    bits: bytes,
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
      for (let chunk = Math.floor(offset / granularityBytes); chunk < end; ) {
        const last = Math.min(end, (chunk | 31) + 1)
        const ones = -1 >>> (32 - (last - chunk))
        set(chunk >>> 5, ones << (chunk & 31))
        chunk = last
      }
      changed()
    },
    markBits(first, from) {
      const behind = Math.max(0, chunks - first)
      for (let i = behind >>> 3; i < from.length; i++) {
        const here = i === behind >>> 3 ? from[i]! >>> (behind & 7) : from[i]!
        if (here !== 0) throw new RangeError(`there are marks behind the last of ${chunks} chunks`)
      }
      for (let i = 0; i < Math.min(from.length, Math.ceil(behind / 8)); i++) {
        if (from[i] !== 0) set((first >>> 5) + (i >>> 2), from[i]! << ((i & 3) * 8))
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

function bitsOf(word: number): number {
  const pairs = word - ((word >>> 1) & 0x5555_5555)
  const fours = (pairs & 0x3333_3333) + ((pairs >>> 2) & 0x3333_3333)
  return (((fours + (fours >>> 4)) & 0x0f0f_0f0f) * 0x0101_0101) >>> 24
}
