/**
 * A running machine's state of one moment, for a twin. The machine goes on; a page that it writes first is kept as it was, and
 * given away when the twin wants it. docs/decisions/2026-11-28-fork.md
 */
import {
  createQEMUFileWriter,
  createTurnBudget,
  defineTransport,
  PAGE_BYTES,
  type SeekableChannel,
  StreamSaver,
  setGlobalRunState,
  singleChannelListener,
  type Transport,
  UnsupportedFeatureError,
  whenPagesArrive,
} from '@ferryvm/core'
import { MemoryMoment } from '../background/memory-moment.ts'
import { configurationOf, type MigrationContext } from '../context.ts'
import { bitmapBytes } from '../ram/mapped/mapped-layout.ts'
import { ForkError } from './errors.ts'
import { type ForkBlock, ForkImage, ForkRam } from './fork-image.ts'

export interface ForkOptions {
  /**
   * Bytes of pages that are kept for the twin because the machine has written them since. From there on the machine's harts wait
   * with their next first write to a page until the twin has fetched some, so the twin has to prefetch. Default: no
   * limit, which is the size of guest memory.
   */
  readonly maxKeptBytes?: number
  /** Runs while the machine stands, for what is not memory: disks. What it throws fails the fork. */
  readonly whileStopped?: () => Promise<void>
}

export class ForkPoint implements Disposable {
  /** ms for which the guest stood. */
  readonly pauseMs: number
  readonly sizeBytes: number
  readonly #context: MigrationContext
  readonly #image: ForkImage
  readonly #blocks: readonly ForkBlock[]
  readonly #moment: MemoryMoment
  #closed = false

  constructor(parts: {
    readonly context: MigrationContext
    readonly image: ForkImage
    readonly blocks: readonly ForkBlock[]
    readonly moment: MemoryMoment
    readonly pauseMs: number
  }) {
    this.#context = parts.context
    this.#image = parts.image
    this.#blocks = parts.blocks
    this.#moment = parts.moment
    this.pauseMs = parts.pauseMs
    this.sizeBytes = parts.image.position
  }

  /** Bytes of pages that are kept because the machine has written them. */
  get keptBytes(): number {
    return this.#moment.keptBytes
  }

  /** Pages that the twin has not fetched. */
  get remainingPages(): number {
    return this.#moment.remainingPages
  }

  /** Nobody fetches from it any more. */
  get closed(): boolean {
    return this.#closed
  }

  /**
   * Bytes of the file that the twin is resumed from.
   * @returns how many; fewer than asked for only at the end
   * @throws ForkError a page was released already, or all were
   */
  async readAt(into: Uint8Array, position: number): Promise<number> {
    if (this.#closed) throw new ForkError('the fork was closed')
    const count = Math.max(0, Math.min(into.length, this.sizeBytes - position))
    const part = into.subarray(0, count).fill(0)
    this.#image.copy(part, position)
    const { missing } = this.#context.machine.memory
    for (const { block, offset, from, at } of this.#pages(position, count)) {
      const page = (block.offset + offset) / PAGE_BYTES
      // Of a machine that is a twin itself, and does not have it yet.
      if (missing.has(page)) await missing.when(page)
      if (!this.#moment.holds(block, offset)) {
        throw new ForkError(`page 0x${offset.toString(16)} of ${block.idstr} was fetched before, and is gone`)
      }
      const bytes = this.#moment.bytes(block, offset).subarray(from)
      part.set(bytes.subarray(0, count - at), at)
    }
    return count
  }

  /** Whole pages of that range have arrived at the twin: the machine may write them. */
  release(position: number, bytes: number): void {
    for (const { block, offset, from, at } of this.#pages(position, bytes)) {
      if (from === 0 && at + PAGE_BYTES <= bytes) this.#moment.done(block, offset)
    }
  }

  /** The machine may write what it likes; a twin that has not everything by now does not get it. */
  [Symbol.dispose](): void {
    this.#closed = true
    this.#moment[Symbol.dispose]()
  }

  /** Which pages are not zero; looked for while the guest runs. */
  async findPages(): Promise<void> {
    const turn = createTurnBudget()
    const { missing } = this.#context.machine.memory
    for (const { block, bitmapAt } of this.#blocks) {
      const bitmap = new Uint8Array(bitmapBytes(block.sizeBytes))
      for (let page = 0; page < block.sizeBytes / PAGE_BYTES; page++) {
        const offset = page * PAGE_BYTES
        if (missing.has((block.offset + offset) / PAGE_BYTES) || !this.#moment.isZero(block, offset)) {
          bitmap[page >>> 3]! |= 1 << (page & 7)
        } else this.#moment.done(block, offset)
        if ((page & 255) === 255) await turn()
      }
      this.#image.put(bitmapAt, bitmap)
    }
  }

  /** Pages that overlap a range of the file: from which byte of theirs, to which byte of the range. */
  *#pages(position: number, bytes: number) {
    for (const { block, pagesAt } of this.#blocks) {
      const begin = Math.max(position, pagesAt)
      const end = Math.min(position + bytes, pagesAt + block.sizeBytes)
      for (let at = begin; at < end; ) {
        const from = (at - pagesAt) % PAGE_BYTES
        yield { block, offset: at - pagesAt - from, from, at: at - position }
        at += PAGE_BYTES - from
      }
    }
  }
}

/** @throws what a device throws; the machine goes on as if nothing had been asked for */
export async function createForkPoint(context: MigrationContext, options: ForkOptions): Promise<ForkPoint> {
  const { machine, isZero, settings } = context
  const moment = new MemoryMoment(machine.memory, isZero, () => {}, options.maxKeptBytes ?? Number.POSITIVE_INFINITY)
  const blocks = machine.migratableBlocks()
  const configuration = configurationOf(context)
  const validatedCapabilities = { 'x-ignore-shared': false, 'mapped-ram': true }
  const seal = machine.sections.seal()
  const { runState } = machine
  setGlobalRunState(context.globalState, runState)
  const beganMs = performance.now()
  let saved: { readonly image: ForkImage; readonly ram: ForkRam }
  try {
    if (runState === 'running') await machine.stop('save-vm')
    // A device of a twin may have to look into a page that has not come yet.
    saved = await whenPagesArrive(async () => {
      const image = new ForkImage()
      const ram = new ForkRam(image, blocks)
      context.forking = ram
      const f = createQEMUFileWriter(image)
      const saver = new StreamSaver(f, machine.sections, { settings })
      saver.begin({ ...configuration, validatedCapabilities })
      await saver.setup()
      await saver.complete()
      await saver.saveDevices()
      saver.end()
      await f.flush()
      return { image, ram }
    })
    await options.whileStopped?.()
    moment.take(blocks)
    await machine.cpu.flushWriteTlb()
  } catch (error) {
    moment[Symbol.dispose]()
    throw error
  } finally {
    context.forking = undefined
    seal[Symbol.dispose]()
    // Whoever changed the run state meanwhile has the last word.
    if (machine.runState === 'save-vm') machine.start()
  }
  const pauseMs = performance.now() - beganMs
  const point = new ForkPoint({ context, image: saved.image, blocks: saved.ram.blocks, moment, pauseMs })
  await point.findPages()
  return point
}

/** `fork:`: gives the twin to a machine in this process. */
export function forkTransport(point: ForkPoint): Transport<string> {
  return defineTransport<string>({
    scheme: 'fork',
    features: new Set(['seekable']),
    parseAddress: (text) => text,
    async connect() {
      throw new UnsupportedFeatureError('writing', 'fork:')
    },
    listen: async (address, { signal }) => singleChannelListener(address, channelOf(point), signal),
  })
}

function channelOf(point: ForkPoint): SeekableChannel {
  const oneWay = () => Promise.reject(new UnsupportedFeatureError('writing', 'fork:'))
  const fetch = async (into: Uint8Array, at: number) => {
    const count = await point.readAt(into, at)
    point.release(at, count)
    return count
  }
  const self = {
    features: new Set(['seekable'] as const),
    position: 0,
    seek: (to: number) => void (self.position = to),
    async read(into: Uint8Array) {
      const count = await point.readAt(into, self.position)
      self.position += count
      return count
    },
    readAt: fetch,
    write: oneWay,
    writeAt: oneWay,
    shutdown: oneWay,
    close: async () => point[Symbol.dispose](),
  }
  return self
}
