import { FerryError } from '../errors/ferry-error.ts'
import { MissingPages } from './missing-pages.ts'
import { PageGuards } from './page-guards.ts'

export const PAGE_BYTES = 4096
const WASM_PAGE_BYTES = 65536
/** wasm32 addresses 4 GiB; the last wasm page stays unused so that offset + length never wraps. */
const MAX_BYTES = 65535 * WASM_PAGE_BYTES
const MAX_PAGES = 2 ** 32 / PAGE_BYTES

export class GuestMemoryExhaustedError extends FerryError {
  readonly code = 'FERRY_MEMORY_EXHAUSTED'
}

/** A file that a block of memory comes from. Nothing is mapped: it is read, and written, when somebody says so. */
export interface RamBacking {
  /** For messages. */
  readonly path: string
  /** What the guest writes belongs into it, and another machine on this host may have it as its memory too. */
  readonly shared: boolean
  /** Fills memory from the file's beginning. @throws the file's error */
  read(into: Uint8Array): Promise<void>
  /** @param bytes borrowed until it settles @throws the file's error */
  write(bytes: Uint8Array, offset: number): Promise<void>
}

/** A named piece of guest memory that migrates as a unit. Spec: ram.md section 2. */
export interface RamBlock {
  /** Name on the wire, for example `riscv_virt_board.ram`. At most 255 bytes. */
  readonly idstr: string
  /** Where it begins in {@link GuestMemory.memory}, bytes, page aligned. */
  readonly offset: number
  readonly sizeBytes: number
  readonly pageBytes: number
  /** The contents, live: harts and devices write to the same bytes. */
  readonly bytes: Uint8Array<SharedArrayBuffer>
  /** Upper bound of its size where the sender's block could grow; the order of blocks in a stream follows it. */
  readonly maxBytes: number
  /** Whether it is sent with the others. A block that only some senders have is taken in either way. */
  migrates: boolean
  /** Absent: it begins as zeros, and ends with the machine. */
  readonly backing?: RamBacking
  /** A stream listed it. */
  onReceived?: () => void
}

export interface RamBlockOptions {
  /** Default: its size. */
  readonly maxBytes?: number
  /** Default true. */
  readonly migrates?: boolean
  readonly backing?: RamBacking
  readonly onReceived?: () => void
}

/**
 * One shared `WebAssembly.Memory` that holds all guest memory, so that compiled guest code, worker threads and devices
 * see the same bytes without a copy. Blocks are page aligned and never move or shrink.
 */
export class GuestMemory {
  readonly memory: WebAssembly.Memory
  readonly blocks: RamBlock[] = []
  readonly dirtyLog: DirtyLog
  /** Pages that are still with the sender. */
  readonly missing: MissingPages
  /** Pages that somebody wants to see before they are written. */
  readonly guards: PageGuards
  /** One bit per page of `memory`: a CPU holds decoded or compiled code of that page. Set and cleared by the CPU. */
  readonly codePages: Int32Array<SharedArrayBuffer>
  /** One bit per page that something other than a hart has ever written. */
  readonly #hostWritten = new Uint8Array(MAX_PAGES / 8)
  #top = WASM_PAGE_BYTES // offset 0 stays unused: a null in a table is then never a valid place
  #codeWriteListeners: ((pageIndex: number) => void)[] = []

  constructor() {
    this.memory = new WebAssembly.Memory({ initial: 1, maximum: MAX_BYTES / WASM_PAGE_BYTES, shared: true })
    const control = this.allocate(64)
    const dirty = this.allocate(MAX_PAGES / 8)
    const code = this.allocate(MAX_PAGES / 8)
    const missing = this.allocate(MAX_PAGES / 8)
    const guarded = this.allocate(MAX_PAGES / 8)
    this.codePages = new Int32Array(this.buffer, code, MAX_PAGES / 32)
    this.dirtyLog = new DirtyLog(
      new Int32Array(this.buffer, control, 16),
      new Int32Array(this.buffer, dirty, MAX_PAGES / 32),
      {
        control,
        bitmap: dirty,
        codePages: code,
        missingActive: control + 4,
        missing,
        guardsActive: control + 8,
        guarded,
      },
    )
    this.missing = new MissingPages(
      new Int32Array(this.buffer, control + 4, 1),
      new Int32Array(this.buffer, missing, MAX_PAGES / 32),
    )
    this.guards = new PageGuards(
      new Int32Array(this.buffer, control + 8, 1),
      new Int32Array(this.buffer, guarded, MAX_PAGES / 32),
    )
  }

  /** A view's buffer must be taken anew after an allocation: growing makes a longer object over the same memory. */
  get buffer(): SharedArrayBuffer {
    return this.memory.buffer as unknown as SharedArrayBuffer
  }

  /**
   * @param bytes rounded up to whole pages; zeroed
   * @returns offset in `memory`, page aligned
   * @throws GuestMemoryExhaustedError all of it together would exceed 4 GiB
   */
  allocate(bytes: number): number {
    const offset = this.#top
    const end = offset + Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES
    if (end > MAX_BYTES) {
      throw new GuestMemoryExhaustedError(`guest memory and tables need ${end} bytes; ${MAX_BYTES} can be addressed`)
    }
    const missing = end - this.buffer.byteLength
    if (missing > 0) {
      try {
        this.memory.grow(Math.ceil(missing / WASM_PAGE_BYTES))
      } catch (cause) {
        throw new GuestMemoryExhaustedError(`the host refused ${missing} more bytes of guest memory`, { cause })
      }
    }
    this.#top = end
    return offset
  }

  /** @throws GuestMemoryExhaustedError see {@link allocate} */
  addBlock(idstr: string, sizeBytes: number, options: RamBlockOptions = {}): RamBlock {
    const offset = this.allocate(sizeBytes)
    const bytes = new Uint8Array(this.buffer, offset, sizeBytes)
    const { maxBytes = sizeBytes, migrates = true, ...others } = options
    const block: RamBlock = { idstr, offset, sizeBytes, pageBytes: PAGE_BYTES, bytes, maxBytes, migrates, ...others }
    this.blocks.push(block)
    return block
  }

  /** Called before anything but a hart writes guest memory: who guards a page keeps what is in it. */
  willWrite(offset: number, length: number): void {
    this.guards.willWrite(offset, length)
  }

  /** Called after anything but a hart wrote guest memory: feeds the dirty log and tells the CPU about stale code. */
  written(offset: number, length: number): void {
    if (length === 0) return
    const first = offset >>> 12
    const last = (offset + length - 1) >>> 12
    for (let page = first; page <= last; page++) {
      this.dirtyLog.mark(page)
      this.#hostWritten[page >>> 3]! |= 1 << (page & 7)
      if (Atomics.load(this.codePages, page >>> 5) & (1 << (page & 31))) {
        for (const listener of this.#codeWriteListeners) listener(page)
      }
    }
  }

  /**
   * Whether anything but a hart has written to the page. Before a guest has run for the first time, what is false is zeros, and
   * nobody has to look.
   */
  hostWrote(pageIndex: number): boolean {
    return (this.#hostWritten[pageIndex >>> 3]! & (1 << (pageIndex & 7))) !== 0
  }

  /** Blocks that are sent, longest first, then in creation order. Spec: ram.md section 1. */
  migratableBlocks(): RamBlock[] {
    return this.blocks.filter((block) => block.migrates).sort((a, b) => b.maxBytes - a.maxBytes)
  }

  onCodeWrite(listener: (pageIndex: number) => void): void {
    this.#codeWriteListeners.push(listener)
  }
}

/**
 * Which pages were written since they were last taken. One bit per page of the whole {@link GuestMemory}, index =
 * memory offset / 4096, bit 0 of word 0 first. Harts set bits when they load a page into their write TLB; so after
 * `take` a CPU must drop its write TLBs (see `Cpu.flushWriteTlb`) before page contents are read.
 */
export class DirtyLog {
  /**
   * Byte offsets in guest memory for code that is compiled against it. control: i32, 1 while logging; missingActive: i32, 1
   * while a bit of the bitmap `missing` is set; guardsActive: i32, not 0 while one of `guarded` may be.
   */
  readonly offsets: {
    readonly control: number
    readonly bitmap: number
    readonly codePages: number
    readonly missingActive: number
    readonly missing: number
    readonly guardsActive: number
    readonly guarded: number
  }
  readonly #control: Int32Array
  readonly #bitmap: Int32Array

  constructor(control: Int32Array, bitmap: Int32Array, offsets: DirtyLog['offsets']) {
    this.#control = control
    this.#bitmap = bitmap
    this.offsets = offsets
  }

  get enabled(): boolean {
    return Atomics.load(this.#control, 0) !== 0
  }

  set enabled(on: boolean) {
    Atomics.store(this.#control, 0, on ? 1 : 0)
  }

  mark(pageIndex: number): void {
    if (this.enabled) Atomics.or(this.#bitmap, pageIndex >>> 5, 1 << (pageIndex & 31))
  }

  /** How many pages of a block have been written since they were last taken. */
  count(block: RamBlock): number {
    const first = block.offset >>> 12
    const end = first + Math.ceil(block.sizeBytes / PAGE_BYTES)
    let count = 0
    for (let page = first; page < end; ) {
      const next = Math.min(end, (page | 31) + 1)
      let bits = Atomics.load(this.#bitmap, page >>> 5) >>> (page & 31)
      if (next - page < 32) bits &= (1 << (next - page)) - 1
      for (; bits !== 0; bits &= bits - 1) count++
      page = next
    }
    return count
  }

  /**
   * Moves the bits of one block into `into` (OR) and clears them here.
   * @param into one bit per page of the block, bit 0 of word 0 first
   * @returns how many bits of `into` changed from 0 to 1
   */
  take(block: RamBlock, into: Int32Array): number {
    const first = block.offset >>> 12
    const count = Math.ceil(block.sizeBytes / PAGE_BYTES)
    let fresh = 0
    for (let i = 0; i < count; ) {
      const page = first + i
      const shift = page & 31
      const run = Math.min(32 - shift, count - i)
      const mask = run === 32 ? -1 : ((1 << run) - 1) << shift
      const bits = Atomics.and(this.#bitmap, page >>> 5, ~mask) & mask
      if (bits !== 0) {
        for (let b = 0; b < run; b++) {
          if (!(bits & (1 << (shift + b)))) continue
          const at = i + b
          const word = at >>> 5
          const bit = 1 << (at & 31)
          if (!(into[word]! & bit)) {
            into[word]! |= bit
            fresh++
          }
        }
      }
      i += run
    }
    return fresh
  }
}
