import { type Machine, nextTurn, PAGE_BYTES, type RamBlock } from '@ferryvm/core'
import type { PageSink } from '@ferryvm/migration'
import { trace } from './colo-trace.ts'

/** Work between two turns of the event loop, ms. */
const TURN_MS = 4

interface CachedBlock {
  readonly block: RamBlock
  readonly bytes: Uint8Array
  /** Pages that differ, or may: received, or written by the guest here. One bit per page, bit 0 of word 0 first. */
  readonly changed: Int32Array
}

/**
 * The primary's memory as of the last checkpoint, plus what has arrived of the next one; the guest's own memory stays what
 * it is until `flush`. So a checkpoint that never becomes complete leaves no trace.
 * Spec: protocol.md section 10.
 */
export class RamCache implements PageSink {
  readonly #machine: Machine
  readonly #blocks = new Map<RamBlock, CachedBlock>()

  /** Copies the memory, which must be what the primary's was when it began. */
  constructor(machine: Machine) {
    this.#machine = machine
    for (const block of machine.memory.blocks) {
      const changed = new Int32Array(Math.ceil(block.sizeBytes / PAGE_BYTES / 32))
      this.#blocks.set(block, { block, bytes: new Uint8Array(block.bytes), changed })
    }
  }

  page(block: RamBlock, offset: number): Uint8Array {
    const { bytes, changed } = this.#blocks.get(block)!
    const page = offset / PAGE_BYTES
    changed[page >>> 5]! |= 1 << (page & 31)
    return bytes.subarray(offset, offset + PAGE_BYTES)
  }

  /** Adds what the guest wrote here meanwhile; the machine is stopped and its dirty log on. */
  async takeOwn(): Promise<void> {
    const { memory, cpu } = this.#machine
    for (const { block, changed } of this.#blocks.values()) memory.dirtyLog.take(block, changed)
    await cpu.flushWriteTlb()
  }

  /** Makes the guest's memory what the cache says. The machine is stopped. @returns pages */
  async flush(): Promise<number> {
    let pages = 0
    if (trace.colo_flush_ram_cache_begin.enabled)
      trace.colo_flush_ram_cache_begin({ dirty_pages: this.#changedPages() })
    let began = performance.now()
    for (const { block, bytes, changed } of this.#blocks.values()) {
      for (let word = 0; word < changed.length; word++) {
        let bits = changed[word]!
        if (bits === 0) continue
        changed[word] = 0
        for (; bits !== 0; bits &= bits - 1) {
          const at = (word * 32 + 31 - Math.clz32(bits & -bits)) * PAGE_BYTES
          this.#machine.memory.willWrite(block.offset + at, PAGE_BYTES)
          block.bytes.set(bytes.subarray(at, at + PAGE_BYTES), at)
          this.#machine.memory.written(block.offset + at, PAGE_BYTES)
          pages++
        }
        if (performance.now() - began > TURN_MS) {
          await nextTurn()
          began = performance.now()
        }
      }
    }
    trace.colo_flush_ram_cache_end({})
    return pages
  }

  #changedPages(): number {
    let pages = 0
    for (const { changed } of this.#blocks.values()) {
      for (let bits of changed) for (; bits !== 0; bits &= bits - 1) pages++
    }
    return pages
  }
}
