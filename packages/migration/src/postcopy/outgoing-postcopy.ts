/**
 * The source's side of postcopy, from the switch on: the guest is stopped here for good, and its pages follow it. When the
 * channel breaks they wait here for another one. Spec: ram.md section 10.
 */
import {
  bufferWriter,
  type Channel,
  createQEMUFileReader,
  createQEMUFileWriter,
  PAGE_BYTES,
  type QEMUFileWriter,
  StreamSaver,
  type Transport,
} from '@ferryvm/core'
import type { Bandwidth } from '../bandwidth.ts'
import type { MigrationContext } from '../context.ts'
import { DestinationFailedError, MigrationStateError, MigrationYankedError } from '../errors.ts'
import { packageDigest } from '../journal/page-journal.ts'
import { trace } from '../migration-trace.ts'
import { ReadMarks } from '../read-marks.ts'
import { type ReturnPathHandlers, receiveReturnPath } from '../return-path.ts'
import type { PageSource } from './page-source.ts'
import { advisePayload, be32, discardPayloads, PING_BEFORE_PACKAGE, recvBitmapPayload } from './postcopy-commands.ts'

/** Values of PING at the end of the package, and behind it. PING 1 opens the return path. */
const PING_LOADED = 3
const PING_AFTER_PACKAGE = 4
/** The last bytes of the package, without which the destination cannot begin with any of it. */
const PACKAGE_TAIL_BYTES = 1
/** Pages that nobody waits for: the destination is asked so often how far it is. */
const MARK_BYTES = 128 * 1024
/** It is waited for so long at most; its answer wakes earlier. */
const ANSWER_MS = 1000

/** One connection to the destination. */
export interface PostcopyLink {
  readonly channel: Channel
  readonly f: QEMUFileWriter
  readonly saver: StreamSaver
  /** Resolves with SHUT(0). */
  readonly returnPath: Promise<void>
  readonly marks: ReadMarks
}

interface Endpoint {
  readonly transport: Transport<any>
  readonly address: unknown
}

export interface OutgoingPostcopyParts extends Endpoint {
  readonly context: MigrationContext
  readonly bandwidth: Bandwidth
  readonly signal: AbortSignal
  /** Of a new connection, whose bytes count. */
  connected(f: QEMUFileWriter): void
  /** Called once per window of the bandwidth. */
  windowClosed(window: { bytes: number; ms: number }): void
}

export class OutgoingPostcopy {
  readonly #parts: OutgoingPostcopyParts
  #pages: PageSource | undefined
  #link: PostcopyLink | undefined
  #urgent: Channel | undefined
  /** Behind PING 3 of the package comes RUN. */
  #mayRun = false
  /** The destination has everything that comes before the package. */
  readonly #before = Promise.withResolvers<void>()
  #paused: PromiseWithResolvers<PostcopyLink> | undefined
  #reconnecting = false

  constructor(parts: OutgoingPostcopyParts) {
    this.#parts = parts
  }

  /** What the stream says about postcopy before anything else. */
  static advise(saver: StreamSaver): void {
    saver.command('POSTCOPY_ADVISE', advisePayload())
  }

  get pages(): PageSource | undefined {
    return this.#pages
  }

  /** Nothing more for now that nobody waits for: what is asked for then waits behind little. */
  get limited(): boolean {
    if (this.#parts.bandwidth.exceeded) return true
    const { marks, f } = this.#link!
    return f.position - marks.marked >= MARK_BYTES || this.#ahead
  }

  get #ahead(): boolean {
    const { marks, f } = this.#link!
    return f.position - marks.read > marks.aheadBytes
  }

  /** What the first channel's return path brings, also before the switch. */
  readonly handlers: ReturnPathHandlers = {
    pong: (value) => {
      if (value === PING_LOADED) this.#mayRun = true
      if (value === PING_BEFORE_PACKAGE) this.#before.resolve()
    },
    request: (idstr, start, bytes) =>
      this.#pages ? this.#pages.request(idstr, start, bytes) : 'nothing is missing there yet',
  }

  /**
   * The channel for requested pages, if the capability asks for one. Receivers that want it at setup begin with nothing, a
   * recovery included, before it is there; the others take it once they have answered on the first channel.
   */
  async connectUrgent({ transport, address }: Endpoint = this.#parts): Promise<void> {
    const { context, signal } = this.#parts
    if (!context.capabilities.get('postcopy-preempt')) return
    this.#urgent = await transport.connect(address, { signal, log: context.log })
    trace.postcopy_preempt_new_channel({})
  }

  /**
   * The machine is stopped. Sends everything up to the last byte of the package.
   * @param keep is waited for before the package is sent; gets its digest
   * @returns sends that byte; once it is called, the destination may run the guest
   */
  async switchOver(
    { saver, f, returnPath }: PostcopyLink,
    pages: PageSource,
    keep: (digest: string) => Promise<void>,
  ): Promise<() => void> {
    const { context } = this.#parts
    this.#pages = pages
    trace.postcopy_start_set_run({})
    trace.postcopy_preempt_enabled({ value: this.#urgent !== undefined })
    await saver.complete({ postcopy: true })
    for (const { block, ranges } of pages.discards()) {
      for (const payload of discardPayloads(block, ranges)) saver.command('POSTCOPY_RAM_DISCARD', payload)
    }
    trace.ram_postcopy_send_discard_bitmap({})
    saver.command('PING', be32(PING_BEFORE_PACKAGE))
    await f.flush()
    const bytes = await this.#package()
    await keep(packageDigest(bytes))
    // A link that is dead already takes the package too, into buffers, and then nobody knows whether it arrived.
    await Promise.race([this.#before.promise, returnPath])
    saver.command('PACKAGED', be32(bytes.length))
    const tailAt = bytes.length - PACKAGE_TAIL_BYTES
    f.putBuffer(bytes.subarray(0, tailAt))
    await f.flush()
    this.#parts.signal.throwIfAborted()
    context.log.debug('postcopy package', { bytes: bytes.length, missingBytes: pages.remainingBytes })
    return () => {
      pages.connect(f, this.#urgent && createQEMUFileWriter(this.#urgent))
      f.putBuffer(bytes.subarray(tailAt))
      saver.command('PING', be32(PING_AFTER_PACKAGE))
    }
  }

  /**
   * Sends pages, over as many channels as it takes. Resolves when the destination has everything.
   * @throws DestinationFailedError it could not load the device state, so that the guest never ran there
   */
  async run(first: PostcopyLink): Promise<void> {
    const { context } = this.#parts
    for (let link = first; ; ) {
      this.#link = link
      try {
        await this.#sendRest(link)
        await this.#urgent?.close().catch(() => {})
        return
      } catch (error) {
        const why = error instanceof Error ? error : new Error(String(error))
        // Another failure may only be how we learn of this one.
        const said = await settled(link.returnPath, SAID_MS)
        await this.#close(why)
        for (const e of [why, said]) if (this.neverRan(e)) throw e
        this.#parts.signal.throwIfAborted()
        context.log.warn(`postcopy is paused: ${why.message}`)
        context.note(why)
        this.#paused = Promise.withResolvers()
        context.setStatus('postcopy-paused')
        link = await this.#paused.promise
        this.#paused = undefined
        trace.postcopy_pause_continued({})
      }
    }
  }

  /** @throws MigrationStateError not in postcopy-active */
  pause(): void {
    const status = this.#parts.context.status()
    if (status !== 'postcopy-active' && status !== 'postcopy-recover') {
      throw new MigrationStateError('only a migration in postcopy-active can be paused')
    }
    void this.#close(new MigrationStateError('paused by migrate-pause'))
  }

  /** Breaks the channel in whatever state it is. */
  yank(): void {
    void this.#close(new MigrationYankedError())
  }

  /** Connects anew after a break, in the background. @throws MigrationStateError it is not paused */
  resume(transport: Transport<any>, address: unknown): void {
    const { context } = this.#parts
    if (!this.#paused || this.#reconnecting)
      throw new MigrationStateError('no paused postcopy migration could be resumed')
    this.#reconnecting = true
    context.setStatus('postcopy-recover-setup')
    void this.#reconnect({ transport, address })
      .then((link) => this.#paused!.resolve(link))
      .catch(async (error: unknown) => {
        const why = error instanceof Error ? error : new Error(String(error))
        await this.#close(why)
        if (this.neverRan(why)) {
          this.#paused!.reject(why)
          return
        }
        context.note(why)
        context.log.warn(`postcopy could not be resumed: ${why.message}`)
        context.setStatus('postcopy-paused')
      })
      .finally(() => {
        this.#reconnecting = false
      })
  }

  /** Nobody will come for the rest. */
  giveUp(reason: Error): void {
    void this.#close(reason)
    this.#paused?.reject(reason)
  }

  async #package(): Promise<Uint8Array> {
    const { context } = this.#parts
    const out = bufferWriter()
    const saver = new StreamSaver(out, context.machine.sections, {
      settings: { ...context.settings, suppressVmdesc: true },
      onSection: (progress) => context.section(progress),
    })
    saver.command('POSTCOPY_LISTEN')
    await saver.saveDevices()
    saver.command('PING', be32(PING_LOADED))
    saver.command('POSTCOPY_RUN')
    return out.bytes()
  }

  async #sendRest({ saver, f, returnPath, marks }: PostcopyLink): Promise<void> {
    const { context, bandwidth, signal, windowClosed } = this.#parts
    const pages = this.#pages!
    // A destination that is gone may leave a write waiting for ever.
    returnPath.catch((error: Error) => this.#close(error).then(() => pages.wake()))
    await f.flush()
    marks.answered = () => {
      if (!this.#ahead && !bandwidth.exceeded) pages.wake()
    }
    bandwidth.restart()
    for (let done = false; !done; ) {
      signal.throwIfAborted()
      bandwidth.limit = context.parameters.values['max-postcopy-bandwidth']
      const window = bandwidth.tick()
      if (window) windowClosed(window)
      if (bandwidth.exceeded) await pages.idle(bandwidth.windowLeftMs, signal)
      else {
        if (f.position - marks.marked >= MARK_BYTES) {
          marks.mark(saver, f)
          await f.flush()
        }
        if (this.#ahead) await pages.idle(ANSWER_MS, signal)
      }
      done = await saver.iterate()
    }
    if (context.settings.preemptAtSetup) await pages.endUrgent()
    await saver.completePostcopy()
    await f.flush()
    await returnPath
  }

  async #reconnect(to: Endpoint): Promise<PostcopyLink> {
    const { context, signal, connected } = this.#parts
    const pages = this.#pages!
    const channel = await to.transport.connect(to.address, { signal, log: context.log })
    const f = createQEMUFileWriter(channel)
    const saver = new StreamSaver(f, context.machine.sections, {
      settings: context.settings,
      onSection: (progress) => context.section(progress),
    })
    const marks = new ReadMarks()
    const bitmaps = new Map<string, Uint8Array>()
    const complete = Promise.withResolvers<void>()
    const acknowledged = Promise.withResolvers<void>()
    const returnPath = receiveReturnPath(createQEMUFileReader(channel), {
      ...this.handlers,
      pong: (value) => {
        this.handlers.pong!(value)
        marks.pong(value)
      },
      bitmap: (idstr, bitmap) => {
        const block = pages.blocks.find((b) => b.idstr === idstr)
        if (!block) return `no RAM block "${idstr}"`
        trace.ram_dirty_bitmap_reload_begin({ str: idstr })
        const expected = Math.ceil(block.sizeBytes / block.pageBytes / 64) * 8
        if (bitmap.length !== expected) return `${idstr}: ${bitmap.length} bytes instead of ${expected}`
        trace.ram_dirty_bitmap_reload_complete({ str: idstr })
        bitmaps.set(idstr, bitmap)
        if (bitmaps.size === pages.blocks.length) complete.resolve()
        return undefined
      },
      resumeAck: () => acknowledged.resolve(),
    })
    const link: PostcopyLink = { channel, f, saver, returnPath, marks }
    this.#link = link
    returnPath.catch(() => {})
    context.setStatus('postcopy-recover')
    this.#urgent = undefined
    const { preemptAtSetup } = context.settings
    if (preemptAtSetup) await this.connectUrgent(to)
    const ended = returnPath.then(() => {
      throw new DestinationFailedError('the destination ended the migration instead of recovering it')
    })
    ended.catch(() => {})
    trace.ram_dirty_bitmap_sync_start({})
    for (const block of pages.blocks) {
      trace.ram_dirty_bitmap_request({ str: block.idstr })
      saver.command('RECV_BITMAP', recvBitmapPayload(block))
    }
    await f.flush()
    await Promise.race([complete.promise, ended])
    trace.ram_dirty_bitmap_sync_complete({})
    for (const block of pages.blocks) pages.received(block, bitmaps.get(block.idstr)!)
    trace.ram_state_resume_prepare({ v: pages.remainingBytes / PAGE_BYTES })
    if (!preemptAtSetup) await this.connectUrgent(to)
    // What the destination waits for comes right behind its word.
    pages.connect(f, this.#urgent && createQEMUFileWriter(this.#urgent))
    saver.command('POSTCOPY_RESUME')
    await f.flush()
    await Promise.race([acknowledged.promise, ended])
    connected(f)
    context.setStatus('postcopy-active')
    return link
  }

  /** It says that it failed, and it has not come to RUN: the guest can go on here. */
  neverRan(error: unknown): error is DestinationFailedError {
    return error instanceof DestinationFailedError && error.status !== undefined && !this.#mayRun
  }

  async #close(reason: Error): Promise<void> {
    await this.#link?.channel.close(reason).catch(() => {})
    await this.#urgent?.close(reason).catch(() => {})
  }
}

/** How long a destination's last word may take to arrive after the channel broke. */
const SAID_MS = 200

/** What a promise was rejected with, if that happens soon. */
async function settled(promise: Promise<unknown>, ms: number): Promise<unknown> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms)
  })
  const said = await Promise.race([
    promise.then(
      () => undefined,
      (error: unknown) => error,
    ),
    late,
  ])
  clearTimeout(timer)
  return said
}
