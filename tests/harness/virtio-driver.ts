import { ECAM, PIO, RAM, type VirtioBench } from './virtio-bench.ts'

/** One descriptor of a chain. */
export interface Buffer {
  readonly at: number
  readonly length: number
  readonly deviceWrites?: boolean
}
export interface DriverQueue {
  readonly index: number
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  /** Added to every address that the device is given. */
  readonly iovaOffset: number
}

const QUEUE_MEMORY = RAM + 0x10_0000
const QUEUE_MEMORY_BYTES = 0x1_0000
const DESC_NEXT = 1
const DESC_WRITE = 2
export const DESC_INDIRECT = 4

/** A driver's half of a split queue, by hand. */
export class GuestQueue {
  readonly bench: VirtioBench
  readonly q: DriverQueue
  #nextDescriptor = 0
  availIdx = 0

  constructor(bench: VirtioBench, index: number, size: number, iovaOffset = 0, memory = QUEUE_MEMORY) {
    this.bench = bench
    const desc = memory + index * QUEUE_MEMORY_BYTES
    // The legacy layout, which suits everybody.
    const avail = desc + 16 * size
    const used = Math.ceil((avail + 4 + 2 * size) / 4096) * 4096
    this.q = { index, size, desc, avail, used, iovaOffset }
    bench.poke(desc, new Uint8Array(QUEUE_MEMORY_BYTES))
  }

  descriptor(index: number, address: number, length: number, flags: number, next = 0, table = this.q.desc): void {
    const bytes = new Uint8Array(16)
    const view = new DataView(bytes.buffer)
    view.setBigUint64(0, BigInt(address + this.q.iovaOffset), true)
    view.setUint32(8, length, true)
    view.setUint16(12, flags, true)
    view.setUint16(14, next, true)
    this.bench.poke(table + 16 * index, bytes)
  }

  /** Puts a chain into the queue; the driver notifies separately. @returns its head */
  add(...buffers: Buffer[]): number {
    const head = this.#nextDescriptor
    buffers.forEach(({ at, length, deviceWrites }, i) => {
      const last = i === buffers.length - 1
      const flags = (last ? 0 : DESC_NEXT) | (deviceWrites ? DESC_WRITE : 0)
      const here = this.#nextDescriptor
      this.#nextDescriptor = (here + 1) % this.q.size
      this.descriptor(here, at, length, flags, last ? 0 : this.#nextDescriptor)
    })
    this.publish(head)
    return head
  }

  publish(head: number): void {
    this.bench.poke16(this.q.avail + 4 + 2 * (this.availIdx % this.q.size), head)
    this.availIdx = (this.availIdx + 1) & 0xffff
    this.bench.poke16(this.q.avail + 2, this.availIdx)
  }

  get usedIdx(): number {
    return this.bench.peek16(this.q.used + 2)
  }
  usedElement(index: number): { id: number; length: number } {
    const view = new DataView(this.bench.peek(this.q.used + 4 + 8 * (index % this.q.size), 8).buffer)
    return { id: view.getUint32(0, true), length: view.getUint32(4, true) }
  }

  async used(count: number): Promise<void> {
    for (let n = 0; this.usedIdx !== (count & 0xffff); n++) {
      if (n > 2000)
        throw new Error(`used index is ${this.usedIdx} and not ${count}; ${this.bench.guestErrors.join('; ')}`)
      await new Promise((r) => setTimeout(r, 1))
    }
  }
}

export const config = (slot: number, register: number) => ECAM + (slot << 15) + register
const MODERN_BAR = 0x4000_0000

/** Brings a modern function to DRIVER_OK with its queues set up. */
export function startModern(
  bench: VirtioBench,
  slot: number,
  { features = 1n << 32n, queueSize = 8, queues = 1, iovaOffset = 0, queueMemory = QUEUE_MEMORY } = {},
): { queues: GuestQueue[]; bar: number; notify(queue: number): void } {
  const bar = MODERN_BAR + slot * 0x1_0000
  bench.write(config(slot, 0x20), bar)
  bench.write(config(slot, 0x24), 0)
  bench.write(config(slot, 4), 6, 2)
  for (const status of [0, 1, 3]) bench.write(bar + 20, status, 1)
  bench.write(bar + 8, 0)
  bench.write(bar + 12, features & 0xffff_ffffn)
  bench.write(bar + 8, 1)
  bench.write(bar + 12, features >> 32n)
  bench.write(bar + 20, 0xb, 1)
  const list = Array.from({ length: queues }, (_, index) => {
    const queue = new GuestQueue(bench, index, queueSize, iovaOffset, queueMemory)
    bench.write(bar + 22, index, 2)
    bench.write(bar + 24, queueSize, 2)
    bench.write(bar + 32, queue.q.desc + iovaOffset, 8)
    bench.write(bar + 40, queue.q.avail + iovaOffset, 8)
    bench.write(bar + 48, queue.q.used + iovaOffset, 8)
    bench.write(bar + 28, 1, 2)
    return queue
  })
  bench.write(bar + 20, 0xf, 1)
  return { bar, queues: list, notify: (queue) => bench.write(bar + 0x3000 + 4 * queue, queue, 2) }
}

/** Brings a transitional function to DRIVER_OK through its I/O BAR. */
export function startLegacy(bench: VirtioBench, slot: number, { features = 0, ports = 0x1000 } = {}) {
  bench.write(config(slot, 0x10), ports)
  bench.write(config(slot, 4), 5, 2)
  const io = PIO + ports
  for (const status of [0, 1, 3]) bench.write(io + 18, status, 1)
  bench.write(io + 4, features)
  bench.write(io + 14, 0, 2)
  const size = bench.read(io + 12, 2)
  const queue = new GuestQueue(bench, 0, size)
  bench.write(io + 8, queue.q.desc / 4096)
  bench.write(io + 18, 7, 1)
  return { io, queue, notify: () => bench.write(io + 16, 0, 2) }
}

export const DATA = RAM + 0x40_0000

/** A virtio-blk request: header at `at`, data behind it, status behind that. */
export function blkRequest(
  bench: VirtioBench,
  queue: GuestQueue,
  {
    type,
    sector = 0,
    data,
    read = 0,
    at = DATA,
  }: { type: number; sector?: number; data?: Uint8Array; read?: number; at?: number },
): { head: number; dataAt: number; statusAt: number } {
  const header = new Uint8Array(16)
  const view = new DataView(header.buffer)
  view.setUint32(0, type, true)
  view.setBigUint64(8, BigInt(sector), true)
  const length = data?.length ?? read
  const dataAt = at + 16
  const statusAt = dataAt + length
  bench.poke(at, header)
  if (data) bench.poke(dataAt, data)
  bench.poke(statusAt, Uint8Array.of(0xee))
  const middle = length > 0 ? [{ at: dataAt, length, deviceWrites: data === undefined }] : []
  const head = queue.add({ at, length: 16 }, ...middle, { at: statusAt, length: 1, deviceWrites: true })
  return { head, dataAt, statusAt }
}
