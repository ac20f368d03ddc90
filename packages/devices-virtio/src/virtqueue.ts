/**
 * A split virtqueue, device side. Everything in the rings is the guest's word: indices, lengths and addresses are
 * checked before use, a ring that contradicts itself breaks the device, and nothing here loops longer than a ring.
 * Spec: virtio 1.2, section 2.7.
 */
import { type AddressSpace, dma, VIRTIO_NO_VECTOR, VIRTQUEUE_MAX_SIZE, type VirtioQueuePort } from '@ferryvm/core'

/** A piece of guest memory. */
export interface Segment {
  readonly address: number
  readonly length: number
}
/** One request: what the driver made readable, and what it made writable. */
export interface VirtqueueElement {
  /** Head descriptor, which names the element in the used ring. */
  readonly index: number
  readonly out: readonly Segment[]
  readonly in: readonly Segment[]
}

const DESC_BYTES = 16
const DESC_NEXT = 1
const DESC_WRITE = 2
const DESC_INDIRECT = 4
const AVAIL_NO_INTERRUPT = 1
const USED_NO_NOTIFY = 1
/** Ring headers: flags, idx. */
const IDX = 2
const RING = 4
const USED_ELEMENT_BYTES = 8
const F_NOTIFY_ON_EMPTY = 1n << 24n
const F_EVENT_IDX = 1n << 29n
const ADDRESS_LIMIT = 1n << 52n

/** What a queue needs of its device. */
export interface VirtqueueHost {
  readonly dma: AddressSpace
  readonly guestFeatures: bigint
  /** False while broken, disabled or stopped. */
  readonly usable: boolean
  /** The guest's rings make no sense; the device stops. */
  fail(message: string): void
  interrupt(queue: Virtqueue): void
}

/** Order of memory accesses against the harts' threads: everything before is seen before everything after. */
// A page without shared memory may still load this package.
const fenceWord = new Int32Array(globalThis.SharedArrayBuffer ? new SharedArrayBuffer(4) : new ArrayBuffer(4))
const fence = (): void => void Atomics.add(fenceWord, 0, 0)

export class Virtqueue implements VirtioQueuePort {
  readonly index: number
  defaultSize: number
  vector = VIRTIO_NO_VECTOR
  lastAvailIdx = 0
  usedIdx = 0
  /** Elements popped and not yet pushed. */
  inUse = 0
  readonly #powerOnSize: number
  readonly #host: VirtqueueHost
  #size: number
  #align: number
  #legacy = false
  #desc = 0n
  #avail = 0n
  #used = 0n
  #descAt = 0
  #availAt = 0
  #usedAt = 0
  #notify = true
  #signalledUsed: number | undefined
  readonly #descriptor = new DataView(new ArrayBuffer(DESC_BYTES))
  readonly #descriptorBytes = new Uint8Array(this.#descriptor.buffer)

  constructor(index: number, size: number, align: number, host: VirtqueueHost) {
    this.index = index
    this.defaultSize = this.#powerOnSize = this.#size = size
    this.#align = align
    this.#host = host
  }

  get size(): number {
    return this.#size
  }
  set size(entries: number) {
    if (!Number.isInteger(entries) || entries < 1 || entries > VIRTQUEUE_MAX_SIZE) return
    this.#size = entries
    if (this.#legacy) this.layOutLegacy()
  }
  get align(): number {
    return this.#align
  }
  set align(bytes: number) {
    this.#align = bytes
    if (this.#legacy) this.layOutLegacy()
  }
  get desc(): bigint {
    return this.#desc
  }
  get avail(): bigint {
    return this.#avail
  }
  get used(): bigint {
    return this.#used
  }
  /** The driver gave it rings. */
  get ready(): boolean {
    return this.#desc !== 0n
  }

  setRings(desc: bigint, avail: bigint, used: bigint): void {
    this.#legacy = false
    this.#place(desc, avail, used)
  }

  setLegacyBase(desc: bigint): void {
    this.#desc = desc
    this.layOutLegacy()
  }

  /** Avail and used as a legacy driver lays them out behind the descriptors. Spec: virtio 1.2, section 2.7.2. */
  layOutLegacy(): void {
    this.#legacy = true
    const desc = this.#desc
    if (desc === 0n) {
      this.#place(0n, 0n, 0n)
      return
    }
    const avail = desc + BigInt(DESC_BYTES * this.#size)
    const align = BigInt(this.#align || 1)
    const used = ((avail + BigInt(RING + 2 * this.#size) + align - 1n) / align) * align
    this.#place(desc, avail, used)
  }

  reset(): void {
    this.defaultSize = this.#size = this.#powerOnSize
    this.lastAvailIdx = this.usedIdx = this.inUse = 0
    this.vector = VIRTIO_NO_VECTOR
    this.#legacy = false
    this.#notify = true
    this.#signalledUsed = undefined
    this.#place(0n, 0n, 0n)
  }

  /** After a load: what the rings in guest memory say. `undefined`: that address could not be read. */
  readIndices(): { used: number; avail: number } | { failed: number } {
    const used = dma.load16(this.#host.dma, this.#usedAt + IDX)
    if (used === undefined) return { failed: this.#usedAt + IDX }
    const avail = dma.load16(this.#host.dma, this.#availAt + IDX)
    return avail === undefined ? { failed: this.#availAt + IDX } : { used, avail }
  }

  /** The next request; undefined when there is none (or the device is broken). */
  pop(): VirtqueueElement | undefined {
    if (!this.ready || !this.#host.usable) return undefined
    const availIdx = dma.load16(this.#host.dma, this.#availAt + IDX)
    if (availIdx === undefined) return this.#fail(`the avail ring at 0x${this.#avail.toString(16)} cannot be read`)
    const waiting = (availIdx - this.lastAvailIdx) & 0xffff
    if (waiting === 0) return undefined
    if (waiting > this.#size) {
      return this.#fail(
        `avail index ${availIdx} is ${waiting} ahead of ${this.lastAvailIdx} in a ring of ${this.#size}`,
      )
    }
    if (this.inUse >= this.#size) return this.#fail(`more than ${this.#size} elements are in use`)
    fence()
    const head = dma.load16(this.#host.dma, this.#availAt + RING + 2 * (this.lastAvailIdx % this.#size))
    if (head === undefined) return this.#fail('the avail ring cannot be read')
    const element = this.#walk(head)
    if (!element) return undefined
    this.demand(element)
    this.lastAvailIdx = (this.lastAvailIdx + 1) & 0xffff
    this.inUse++
    if (this.#notify && this.#eventIdx) this.#setAvailEvent(this.lastAvailIdx)
    return element
  }

  /**
   * While guest memory is still arriving: throws PageMissingError unless everything is here that serving and returning this
   * element touches, so that neither stops halfway.
   */
  demand(element: VirtqueueElement): void {
    const space = this.#host.dma
    if (!space.demand) return
    for (const { address, length } of element.out) space.demand(address, length, false)
    for (const { address, length } of element.in) space.demand(address, length, true)
    const size = this.#size
    space.demand(this.#availAt, RING + 2 * size + 2, false)
    space.demand(this.#usedAt, RING + USED_ELEMENT_BYTES * size + 2, true)
  }

  /** Gives an element back. @param written bytes written to its `in` segments, from the start */
  push(element: { readonly index: number }, written: number): void {
    this.pushAll([{ element, written }])
  }

  /** Gives several back at once: the driver sees none of them before all. As many as were popped, and no more. */
  pushAll(returned: readonly { readonly element: { readonly index: number }; readonly written: number }[]): void {
    if (!this.ready || !this.#host.usable) return
    const before = this.usedIdx
    let ok = true
    for (const { element, written } of returned) {
      const at = this.#usedAt + RING + USED_ELEMENT_BYTES * (this.usedIdx % this.#size)
      const view = this.#descriptor
      view.setUint32(0, element.index, true)
      view.setUint32(4, written, true)
      ok &&= this.#host.dma.write(at, this.#descriptorBytes.subarray(0, USED_ELEMENT_BYTES))
      this.usedIdx = (this.usedIdx + 1) & 0xffff
      this.inUse--
    }
    fence()
    if (!ok || !dma.store16(this.#host.dma, this.#usedAt + IDX, this.usedIdx)) {
      this.#fail(`the used ring at 0x${this.#used.toString(16)} cannot be written`)
      return
    }
    fence()
    if (this.#wantsInterrupt(before)) this.#host.interrupt(this)
  }

  /** Puts the last popped elements back, untouched: the next pop finds them again. */
  unpop(count: number): void {
    this.lastAvailIdx = (this.lastAvailIdx - count) & 0xffff
    this.inUse -= count
  }

  /** False: asks the driver not to notify, while we look at the ring anyway. */
  setNotification(on: boolean): void {
    this.#notify = on
    if (!this.ready || !this.#host.usable) return
    if (this.#eventIdx) {
      if (on) this.#setAvailEvent(this.lastAvailIdx)
    } else if (!dma.store16(this.#host.dma, this.#usedAt, on ? 0 : USED_NO_NOTIFY)) {
      this.#fail(`the used ring at 0x${this.#used.toString(16)} cannot be written`)
    }
    fence()
  }

  /** Requests are waiting. */
  get pending(): boolean {
    if (!this.ready || !this.#host.usable) return false
    const availIdx = dma.load16(this.#host.dma, this.#availAt + IDX)
    return availIdx !== undefined && availIdx !== this.lastAvailIdx
  }

  get #eventIdx(): boolean {
    return (this.#host.guestFeatures & F_EVENT_IDX) !== 0n
  }

  #place(desc: bigint, avail: bigint, used: bigint): void {
    this.#desc = desc
    this.#avail = avail
    this.#used = used
    this.#descAt = toAddress(desc)
    this.#availAt = toAddress(avail)
    this.#usedAt = toAddress(used)
  }

  #fail(message: string): undefined {
    this.#host.fail(`queue ${this.index}: ${message}`)
    return undefined
  }

  #setAvailEvent(index: number): void {
    const at = this.#usedAt + RING + USED_ELEMENT_BYTES * this.#size
    if (!dma.store16(this.#host.dma, at, index)) this.#fail('the avail event cannot be written')
  }

  /** Spec: virtio 1.2, section 2.7.7. */
  #wantsInterrupt(before: number): boolean {
    const { guestFeatures } = this.#host
    if (guestFeatures & F_NOTIFY_ON_EMPTY && this.inUse === 0 && !this.pending) return true
    if (!this.#eventIdx) {
      const flags = dma.load16(this.#host.dma, this.#availAt)
      return flags !== undefined && (flags & AVAIL_NO_INTERRUPT) === 0
    }
    const usedEvent = dma.load16(this.#host.dma, this.#availAt + RING + 2 * this.#size)
    const last = this.#signalledUsed
    this.#signalledUsed = this.usedIdx
    // Nothing was signalled since the rings were set up or loaded: better one interrupt too many.
    if (usedEvent === undefined || last === undefined) return true
    const since = (this.usedIdx - before) & 0xffff
    return ((this.usedIdx - usedEvent - 1) & 0xffff) < since
  }

  #walk(head: number): VirtqueueElement | undefined {
    let table = this.#descAt
    let entries = this.#size
    let next = head
    if (next >= entries) return this.#fail(`head ${head} is outside of the descriptor table`)
    if (!this.#readDescriptor(table, next)) return this.#fail(`descriptor ${next} cannot be read`)
    const desc = this.#descriptor
    if (desc.getUint16(12, true) & DESC_INDIRECT) {
      const bytes = desc.getUint32(8, true)
      if (bytes === 0 || bytes % DESC_BYTES !== 0) return this.#fail(`an indirect table of ${bytes} bytes`)
      table = toAddress(desc.getBigUint64(0, true))
      entries = bytes / DESC_BYTES
      next = 0
      if (!this.#readDescriptor(table, 0)) return this.#fail('an indirect descriptor cannot be read')
    }
    const readable: Segment[] = []
    const writable: Segment[] = []
    const limit = Math.min(entries, VIRTQUEUE_MAX_SIZE)
    for (let count = 1; ; count++) {
      const flags = desc.getUint16(12, true)
      const length = desc.getUint32(8, true)
      if (flags & DESC_INDIRECT) return this.#fail('an indirect descriptor inside of a chain')
      if (length === 0) return this.#fail(`descriptor ${next} is empty`)
      const segment = { address: toAddress(desc.getBigUint64(0, true)), length }
      if (flags & DESC_WRITE) writable.push(segment)
      else if (writable.length > 0) return this.#fail('a readable descriptor after a writable one')
      else readable.push(segment)
      if (!(flags & DESC_NEXT)) return { index: head, out: readable, in: writable }
      next = desc.getUint16(14, true)
      if (next >= entries) return this.#fail(`next descriptor ${next} is outside of a table of ${entries}`)
      if (count >= limit) return this.#fail(`a chain of more than ${limit} descriptors`)
      if (!this.#readDescriptor(table, next)) return this.#fail(`descriptor ${next} cannot be read`)
    }
  }

  #readDescriptor(table: number, index: number): boolean {
    return this.#host.dma.read(table + DESC_BYTES * index, this.#descriptorBytes)
  }
}

/** Addresses beyond what memory can have become one that nothing answers at. */
const toAddress = (value: bigint): number => Number(value < ADDRESS_LIMIT ? value : ADDRESS_LIMIT)

export const segmentBytes = (segments: readonly Segment[]): number => segments.reduce((sum, s) => sum + s.length, 0)

/** Copies guest memory, beginning `skip` bytes into the segments. @returns false: an address could not be read */
export function gather(space: AddressSpace, segments: readonly Segment[], skip: number, into: Uint8Array): boolean {
  return forEachPiece(segments, skip, into, (address, bytes) => space.read(address, bytes))
}

/** Copies into guest memory, beginning `skip` bytes into the segments. @returns false: an address could not be written */
export function scatter(space: AddressSpace, segments: readonly Segment[], skip: number, from: Uint8Array): boolean {
  return forEachPiece(segments, skip, from, (address, bytes) => space.write(address, bytes))
}

function forEachPiece(
  segments: readonly Segment[],
  skip: number,
  buffer: Uint8Array,
  move: (address: number, bytes: Uint8Array) => boolean,
): boolean {
  let done = 0
  for (const { address, length } of segments) {
    if (done === buffer.length) break
    if (skip >= length) {
      skip -= length
      continue
    }
    const bytes = Math.min(length - skip, buffer.length - done)
    if (!move(address + skip, buffer.subarray(done, done + bytes))) return false
    done += bytes
    skip = 0
  }
  return done === buffer.length
}
