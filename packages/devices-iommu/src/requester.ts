/**
 * One requester's view of memory, with what it has cached: its context entry and its part of the IOTLB.
 * Entries stay until the guest invalidates them, as VT-d allows; nothing here migrates.
 */
import type { AddressSpace } from '@ferryvm/core'
import { type ContextScope, contextScopeCovers, type IotlbScope } from './invalidation.ts'
import { type Context, type Fault, INTERRUPT_WINDOW, inInterruptWindow, isFault, type Mapping } from './translation.ts'

/** What a requester asks of its IOMMU. */
export interface RemappingUnit {
  readonly translating: boolean
  readonly remappingInterrupts: boolean
  /** Guest-physical memory. */
  readonly memory: AddressSpace
  lookUpContext(sourceId: number): Context | Fault
  walk(context: Context, iova: number, write: boolean): Mapping | Fault
  fault(sourceId: number, iova: number, write: boolean, fault: Fault): void
  /** A write into the interrupt window. @returns whether something took it */
  interrupt(sourceId: number, address: number, from: Uint8Array): boolean
  /** Makes room for one more entry of the IOTLB. */
  admit(): void
}

interface CachedMapping extends Mapping {
  readonly end: number
  readonly domain: number
}

/** Page sizes of VT-d in 4 KiB pages, smallest first. */
const SIZES = [4096, 2 ** 21, 2 ** 30]

export class Requester implements AddressSpace {
  readonly sourceId: number
  readonly #unit: RemappingUnit
  #context: Context | undefined
  /** By page size, then page number. */
  readonly #mappings: readonly Map<number, CachedMapping>[] = SIZES.map(() => new Map())
  /** The last one used: rings and buffers hit it again and again. */
  #last: CachedMapping | undefined

  constructor(unit: RemappingUnit, sourceId: number) {
    this.#unit = unit
    this.sourceId = sourceId
  }

  read(address: number, into: Uint8Array): boolean {
    return this.#access(address, into, false)
  }

  write(address: number, from: Uint8Array): boolean {
    return this.#access(address, from, true)
  }

  /** Also asks for the tables. What would be a fault is left to the access. */
  demand(address: number, bytes: number, write: boolean): void {
    const unit = this.#unit
    if (!unit.memory.demand) return
    if (!unit.translating) {
      unit.memory.demand(address, bytes, write)
      return
    }
    const context = this.#context ?? unit.lookUpContext(this.sourceId)
    if (isFault(context)) return
    for (let iova = address, end = address + bytes; iova < end; ) {
      if (inInterruptWindow(iova)) return
      const mapping = context.passThrough ? untranslated(iova) : (this.#cached(iova) ?? unit.walk(context, iova, write))
      if (isFault(mapping)) return
      const chunk = Math.min(end, mapping.iova + mapping.sizeBytes) - iova
      unit.memory.demand(mapping.address + (iova - mapping.iova), chunk, write)
      iova += chunk
    }
  }

  invalidateContext(scope: ContextScope): void {
    if (contextScopeCovers(scope, this.sourceId)) this.#context = undefined
  }

  /** @returns how many entries went away */
  invalidateIotlb(scope: IotlbScope): number {
    let dropped = 0
    this.#last = undefined
    for (const [i, mappings] of this.#mappings.entries()) {
      if ('all' in scope) {
        dropped += mappings.size
        mappings.clear()
        continue
      }
      const first = Math.floor((scope.start ?? 0) / SIZES[i]!)
      const last = Math.ceil((scope.end ?? Number.POSITIVE_INFINITY) / SIZES[i]!) - 1
      const drop = (page: number): void => {
        if (mappings.get(page)?.domain !== scope.domain) return
        mappings.delete(page)
        dropped++
      }
      if (last - first < mappings.size) for (let page = first; page <= last; page++) drop(page)
      else for (const page of mappings.keys()) if (page >= first && page <= last) drop(page)
    }
    return dropped
  }

  #access(address: number, bytes: Uint8Array, write: boolean): boolean {
    const unit = this.#unit
    if (!unit.translating && !unit.remappingInterrupts) return physical(unit, address, bytes, write)
    for (let done = 0; done < bytes.length; ) {
      const iova = address + done
      if (inInterruptWindow(iova)) return write && unit.interrupt(this.sourceId, iova, bytes.subarray(done))
      const mapping = unit.translating ? this.#translate(iova, write) : untranslated(iova)
      if (!mapping) return false
      const target = mapping.address + (iova - mapping.iova)
      const chunk = Math.min(bytes.length - done, mapping.end - iova)
      const whole = done === 0 && chunk === bytes.length
      if (!physical(unit, target, whole ? bytes : bytes.subarray(done, done + chunk), write)) return false
      done += chunk
    }
    return true
  }

  #translate(iova: number, write: boolean): CachedMapping | undefined {
    const context = this.#findContext(iova, write)
    if (!context) return undefined
    if (context.passThrough) return untranslated(iova)
    const cached = this.#cached(iova)
    if (cached && (write ? cached.writable : cached.readable)) return cached
    // Not cached, or not with that right: the tables decide, and say which fault it is.
    const found = this.#unit.walk(context, iova, write)
    if (isFault(found)) {
      this.#unit.fault(this.sourceId, iova, write, found)
      return undefined
    }
    const mapping = { ...found, end: found.iova + found.sizeBytes, domain: context.domain }
    const mappings = this.#mappings[SIZES.indexOf(found.sizeBytes)]!
    const page = found.iova / found.sizeBytes
    if (!mappings.has(page)) this.#unit.admit()
    mappings.set(page, mapping)
    this.#last = mapping
    return mapping
  }

  #cached(iova: number): CachedMapping | undefined {
    const last = this.#last
    if (last && iova >= last.iova && iova < last.end) return last
    for (let i = 0; i < SIZES.length; i++) {
      const found = this.#mappings[i]!.get(Math.floor(iova / SIZES[i]!))
      if (found) return (this.#last = found)
    }
    return undefined
  }

  #findContext(iova: number, write: boolean): Context | undefined {
    if (this.#context) return this.#context
    const found = this.#unit.lookUpContext(this.sourceId)
    if (!isFault(found)) return (this.#context = found)
    this.#unit.fault(this.sourceId, iova, write, found)
    return undefined
  }
}

/** Untranslated DMA, below and above the window for interrupt messages. */
const identity = (iova: number, end: number): CachedMapping => {
  const sizeBytes = end - iova
  return { iova, address: iova, sizeBytes, end, domain: 0, readable: true, writable: true }
}
const BELOW_WINDOW = identity(0, INTERRUPT_WINDOW.start)
const ABOVE_WINDOW = identity(INTERRUPT_WINDOW.end, Number.MAX_SAFE_INTEGER)
const untranslated = (iova: number): CachedMapping => (iova < INTERRUPT_WINDOW.start ? BELOW_WINDOW : ABOVE_WINDOW)

const physical = (unit: RemappingUnit, address: number, bytes: Uint8Array, write: boolean): boolean =>
  write ? unit.memory.write(address, bytes) : unit.memory.read(address, bytes)
