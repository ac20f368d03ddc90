import { StreamTruncatedError } from '../errors/stream-error.ts'
import { isVmstateError } from '../errors/vmstate-error.ts'
import { pageMissingIn, whenPagesArrive } from '../memory/missing-pages.ts'
import type { QEMUFileReader } from '../qemufile/qemufile.ts'
import type { SaveStateRegistry, SectionEntry } from '../registry/registry.ts'
import { loadConfiguration, need, type StreamConfiguration } from './configuration.ts'
import {
  COMMANDS,
  type CommandName,
  commandName,
  defaultStreamSettings,
  Element,
  type SectionProgress,
  STREAM_MAGIC,
  STREAM_VERSION,
  type StreamSettings,
} from './element.ts'
import { createTurnBudget } from './event-loop-turn.ts'
import { LoadOrder, LoadOrderError, type LoadOrderSanitizer } from './load-order.ts'
import { savevmTrace as trace } from './savevm-trace.ts'
import {
  ConfigurationError,
  SectionFooterError,
  SectionLoadError,
  SectionSequenceError,
  SectionVersionError,
  StreamCommandError,
  StreamMagicError,
  StreamVersionError,
  UnknownElementError,
  UnknownSectionError,
} from './stream-errors.ts'

export interface StreamCommand {
  readonly name: CommandName
  readonly id: number
  readonly payload: Uint8Array
  /** Of the element byte. */
  readonly offset: number
  /** The error to throw when the command cannot be followed. */
  refuse(why: string): StreamCommandError
  /** The list of elements ends behind it, as with EOF. */
  leave(): void
}

export interface StreamLoaderOptions {
  readonly configuration: StreamConfiguration
  readonly settings?: Partial<StreamSettings>
  readonly onSection?: (progress: SectionProgress) => void
  /** Default: SWITCHOVER_START is accepted, everything else refused. */
  readonly onCommand?: (command: StreamCommand) => void | Promise<void>
  /** Asked at EOF: no description follows, whatever the settings say. */
  readonly endsWithoutDescription?: () => boolean
  /**
   * Goes back in the stream: a section that met a page of guest memory which has not arrived is loaded anew when it has. For
   * streams that are all in memory; without it such a section fails.
   */
  readonly rewind?: (position: number) => void
  /** Something odd that does not keep the stream from loading. */
  readonly warn?: (message: string) => void
  /** Debug mode: an error when a section's load path uses a device that is loaded later. */
  readonly loadOrder?: LoadOrderSanitizer
  /** Keep the JSON description (up to 16 MiB) for the result of `load`. */
  readonly keepDescription?: boolean
}
export interface LoadedStream {
  readonly bytes: number
  readonly sections: number
  readonly description?: string
}

/** A stream may bind this many section ids; a machine has a few dozen. */
const MAX_BOUND_SECTIONS = 65536
const MAX_KEPT_DESCRIPTION_BYTES = 16 << 20
const DRAIN_CHUNK_BYTES = 32768

/** Loads one stream into the handlers of a registry. Spec: stream.md sections 1 to 6 and 10. */
export class StreamLoader {
  #f: QEMUFileReader
  readonly #registry: SaveStateRegistry
  readonly #options: StreamLoaderOptions
  readonly #settings: StreamSettings
  readonly #bound = new Map<number, { entry: SectionEntry; version: number }>()
  readonly #turn = createTurnBudget()
  readonly #order: LoadOrder
  #sections = 0
  #previous: string | undefined

  constructor(f: QEMUFileReader, registry: SaveStateRegistry, options: StreamLoaderOptions) {
    this.#f = f
    this.#registry = registry
    this.#options = options
    this.#settings = { ...defaultStreamSettings, ...options.settings }
    this.#order = new LoadOrder(registry, (message) => options.warn?.(message), options.loadOrder)
  }

  /**
   * Resolves after the end of the stream.
   * @throws StreamFormatError (its subclasses) or VmstateError; state loaded so far stays loaded
   */
  async load(): Promise<LoadedStream> {
    await this.#header()
    return this.loadElements()
  }

  /** {@link load} of a list of elements alone, as PACKAGED has it. */
  async loadElements(): Promise<LoadedStream> {
    try {
      await this.#elements()
    } catch (error) {
      trace.qemu_loadvm_state_post_main({ ret: -1 })
      throw error
    }
    trace.qemu_loadvm_state_post_main({ ret: 0 })
    await whenPagesArrive(() => this.#order.finish())
    const description = await this.#vmdescription()
    return { bytes: this.#f.position, sections: this.#sections, description }
  }

  /** Goes on with the elements of another channel, after the first one broke. Sections keep their numbers. */
  async resume(f: QEMUFileReader): Promise<LoadedStream> {
    this.#f = f
    return this.loadElements()
  }

  /**
   * Sections up to the next EOF and nothing around them: what a COLO checkpoint sends, after a stream (section ids then are
   * that stream's) or by itself.
   * @throws as {@link load}
   */
  async loadSections(): Promise<void> {
    await this.#elements()
    this.#order.finish()
  }

  async #header(): Promise<void> {
    const f = this.#f
    await need(f, 4)
    const magic = f.getBe32()
    if (magic !== STREAM_MAGIC) throw new StreamMagicError(magic, 0)
    await need(f, 4)
    const version = f.getBe32()
    if (version !== STREAM_VERSION) throw new StreamVersionError(version, 4)
    if (!this.#settings.sendConfiguration) return
    await need(f, 1)
    const type = f.getByte()
    if (type !== Element.CONFIGURATION) {
      throw new ConfigurationError('', `missing: the stream goes on with 0x${type.toString(16)}`, f.position - 1)
    }
    await loadConfiguration(f, this.#options.configuration, (message) => this.#options.warn?.(message))
  }

  async #elements(): Promise<void> {
    const f = this.#f
    for (;;) {
      await need(f, 1)
      const offset = f.position
      const type = f.getByte()
      trace.qemu_loadvm_state_section({ section_type: type })
      switch (type) {
        case Element.EOF:
          return
        case Element.SECTION_START:
        case Element.SECTION_FULL:
          await this.#startOrFull(type === Element.SECTION_START ? 'start' : 'full', offset)
          break
        case Element.SECTION_PART:
        case Element.SECTION_END:
          await this.#partOrEnd(type === Element.SECTION_PART ? 'part' : 'end', offset)
          break
        case Element.COMMAND:
          if (await this.#command(offset)) return
          break
        default:
          throw new UnknownElementError(type, this.#previous, offset)
      }
      const turn = this.#turn()
      if (turn) await turn
    }
  }

  async #startOrFull(type: 'start' | 'full', offset: number): Promise<void> {
    const f = this.#f
    await need(f, 5)
    const sectionId = f.getBe32()
    const name = new Uint8Array(f.getByte())
    await need(f, name.length + 8)
    f.getBuffer(name)
    const idstr = new TextDecoder().decode(name)
    const instanceId = f.getBe32()
    const version = f.getBe32()
    trace.qemu_loadvm_state_section_startfull({
      section_id: sectionId,
      idstr,
      instance_id: instanceId,
      version_id: version,
    })
    const entry = idstr === '' ? undefined : this.#registry.find(idstr, instanceId)
    if (!entry) throw new UnknownSectionError(idstr, instanceId, offset)
    if (version > entry.version && !entry.device?.layout(version))
      throw new SectionVersionError(idstr, instanceId, version, entry.version, offset)
    if (this.#bound.size >= MAX_BOUND_SECTIONS) {
      throw new SectionSequenceError(`more than ${MAX_BOUND_SECTIONS} sections`, sectionId, offset)
    }
    this.#bound.set(sectionId, { entry, version })
    await this.#payload(type, entry, sectionId, version, offset)
  }

  async #partOrEnd(type: 'part' | 'end', offset: number): Promise<void> {
    await need(this.#f, 4)
    const sectionId = this.#f.getBe32()
    trace.qemu_loadvm_state_section_partend({ section_id: sectionId })
    const bound = this.#bound.get(sectionId)
    if (!bound) throw new SectionSequenceError(`section id ${sectionId} was never started`, sectionId, offset)
    const { entry, version } = bound
    if (!entry.live) {
      const message = `section ${entry.idstr}/${entry.instanceId} (id ${sectionId}) is sent whole; it has no parts`
      throw new SectionSequenceError(message, sectionId, offset)
    }
    await this.#payload(type, entry, sectionId, version, offset)
  }

  async #payload(
    type: SectionProgress['type'],
    entry: SectionEntry,
    sectionId: number,
    version: number,
    offset: number,
  ): Promise<void> {
    const f = this.#f
    const began = performance.now()
    const payloadAt = f.position
    const name = `${entry.idstr}/${entry.instanceId}`
    try {
      if (entry.live) await this.#drive(entry.live.loadState(f, version, type === 'full' ? 'end' : type))
      else if (entry.device) await this.#device(entry, version, offset)
    } catch (cause) {
      const missing = this.#options.rewind && pageMissingIn(cause)
      if (missing) {
        await missing.arrived
        this.#options.rewind!(payloadAt)
        return this.#payload(type, entry, sectionId, version, offset)
      }
      if (isVmstateError(cause)) throw cause.inSection(name)
      if (cause instanceof LoadOrderError) throw cause
      throw new SectionLoadError(entry.idstr, entry.instanceId, f.position, cause)
    }
    const bytes = f.position - payloadAt
    if (this.#settings.sendSectionFooter) await this.#footer(entry, sectionId)
    if (entry.device) await whenPagesArrive(() => this.#order.loaded(entry))
    this.#sections++
    this.#previous = name
    const ms = performance.now() - began
    if (type === 'end' || type === 'full') {
      const kind = entry.live ? 'iterable' : 'non-iterable'
      const { idstr, instanceId } = entry
      trace.vmstate_downtime_load({ type: kind, idstr, instance_id: instanceId, downtime: Math.round(ms * 1000) })
    }
    this.#options.onSection?.({
      direction: 'load',
      type,
      idstr: entry.idstr,
      instanceId: entry.instanceId,
      sectionId,
      version,
      priority: entry.priority,
      offset,
      bytes,
      ms,
    })
  }

  async #device(entry: SectionEntry, version: number, offset: number): Promise<void> {
    const { device } = entry
    trace.vmstate_load({ idstr: entry.idstr, vmsd_name: device!.vmstate.name })
    // A version that no layout reads is refused by the section's own.
    const layout = device!.layout(version)
    if (!layout) return this.#drive(device!.codec.load(device!.state, this.#f, version))
    const { vmstate, codec, rowsOnly, state } = layout
    const sanitizer = this.#options.loadOrder
    const wrap = sanitizer && (<T>(run: () => T) => sanitizer.during(entry, offset, run))
    if (!this.#order.mustWait(entry)) return this.#drive(codec.load(state, this.#f, version), wrap)
    await this.#drive(rowsOnly.load(state, this.#f, version), wrap)
    if (vmstate.postLoad) this.#order.hold(entry, offset, () => vmstate.postLoad!(state, version))
  }

  /** Runs a load coroutine: it yields how many bytes it needs before it can go on, or a promise. */
  async #drive(load: Generator<number | Promise<void>, void>, wrap = <T>(run: () => T): T => run()): Promise<void> {
    const f = this.#f
    const next = () => wrap(() => load.next())
    let step = next()
    for (let ended = false; !step.done; step = next()) {
      const wanted = step.value
      if (typeof wanted !== 'number') await wanted
      else if (wanted > f.available) {
        if (ended) throw new StreamTruncatedError(f.position, wanted, f.available)
        try {
          const more = f.fill(wanted)
          if (more) await more
        } catch (error) {
          load.throw(error) // it knows which of its rows was being read
          throw error
        }
        // It gets one more turn for the same reason; then it must not ask again.
        ended = wanted > f.available
      }
      const turn = this.#turn()
      if (turn) await turn
    }
  }

  async #footer(entry: SectionEntry, sectionId: number): Promise<void> {
    const f = this.#f
    const offset = f.position
    const fail = (problem: string): never => {
      throw new SectionFooterError(entry.idstr, entry.instanceId, problem, offset)
    }
    await f.fill(1)
    const mark = f.peekByte()
    if (mark < 0)
      throw new SectionLoadError(entry.idstr, entry.instanceId, offset, new StreamTruncatedError(offset, 5, 0))
    if (mark !== Element.SECTION_FOOTER) {
      fail(`0x${mark.toString(16)} follows its state instead of a footer; the two sides disagree on its length`)
    }
    await f.fill(5)
    if (f.available < 5) {
      throw new SectionLoadError(
        entry.idstr,
        entry.instanceId,
        offset,
        new StreamTruncatedError(offset, 5, f.available),
      )
    }
    f.getByte()
    const id = f.getBe32()
    if (id !== sectionId) fail(`its footer has section id ${id} instead of ${sectionId}`)
  }

  /** @returns whether the list ends here */
  async #command(offset: number): Promise<boolean> {
    const f = this.#f
    await need(f, 4)
    const id = f.getBe16()
    const length = f.getBe16()
    const name = commandName(id)
    if (!name) throw new StreamCommandError(id, 'unknown command', offset)
    const expected = COMMANDS[name].length
    if (expected >= 0 && length !== expected) {
      throw new StreamCommandError(id, `${name} has ${expected} bytes of payload, not ${length}`, offset)
    }
    // This one carries no payload whatever its length says. Spec: stream.md section 4.
    const payload = new Uint8Array(name === 'ENABLE_COLO' ? 0 : length)
    await need(f, payload.length)
    f.getBuffer(payload)
    trace.loadvm_process_command({ s: name, len: length })
    if (name === 'PING') trace.loadvm_process_command_ping({ val: new DataView(payload.buffer).getUint32(0) })
    const refuse = (why: string) => new StreamCommandError(id, `${name}: ${why}`, offset)
    let left = false
    const leave = () => {
      left = true
    }
    if (this.#options.onCommand) await this.#options.onCommand({ name, id, payload, offset, refuse, leave })
    else if (name !== 'SWITCHOVER_START') throw refuse('not expected in this stream')
    trace.qemu_loadvm_state_section_command({ ret: 0 })
    return left
  }

  /**
   * A stream that stops right after its EOF is complete (senders can be told to leave the description out), but one that
   * stops inside the description was cut: its sender noticed and goes on with the guest, so we must not.
   */
  async #vmdescription(): Promise<string | undefined> {
    if (this.#settings.suppressVmdesc || this.#options.endsWithoutDescription?.()) return undefined
    const f = this.#f
    await f.fill(1)
    const type = f.peekByte()
    if (type !== Element.VMDESCRIPTION) {
      this.#options.warn?.(
        type < 0 ? 'the stream has no description' : `0x${type.toString(16)} follows the end of the stream`,
      )
      return undefined
    }
    f.getByte()
    await need(f, 4)
    const length = f.getBe32()
    const kept = this.#options.keepDescription && length <= MAX_KEPT_DESCRIPTION_BYTES
    const chunks: Uint8Array[] = []
    for (let left = length; left > 0; ) {
      const n = Math.min(left, DRAIN_CHUNK_BYTES)
      await need(f, n)
      if (kept) {
        const chunk = new Uint8Array(n)
        f.getBuffer(chunk)
        chunks.push(chunk)
      } else f.skip(n)
      left -= n
      const turn = this.#turn()
      if (turn) await turn
    }
    if (!kept) return undefined
    const decoder = new TextDecoder()
    return chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join('') + decoder.decode()
  }
}
