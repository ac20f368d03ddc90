import type { QEMUFileWriter } from '../qemufile/qemufile.ts'
import type { SaveStateRegistry, SectionEntry } from '../registry/registry.ts'
import { formatVmdescription, type SectionDescription, type VmstateDescription } from '../vmstate/description.ts'
import { type StreamConfiguration, saveConfiguration } from './configuration.ts'
import {
  COMMANDS,
  type CommandName,
  defaultStreamSettings,
  Element,
  type SectionProgress,
  STREAM_MAGIC,
  STREAM_VERSION,
  type StreamSettings,
} from './element.ts'
import { createTurnBudget } from './event-loop-turn.ts'
import { savevmTrace as trace } from './savevm-trace.ts'
import { SectionSaveError } from './stream-errors.ts'

export interface StreamSaverOptions {
  readonly settings?: Partial<StreamSettings>
  readonly onSection?: (progress: SectionProgress) => void
  /** `page_size` of the JSON description. Default 4096. */
  readonly targetPageBytes?: number
}

/**
 * Writes the container around what devices and live handlers say. Its methods are called in the order of stream.md
 * section 7: begin, setup, iterate (any number of times), complete, saveDevices, end. Flushing is left to the caller and to
 * live handlers.
 */
export class StreamSaver {
  #f: QEMUFileWriter
  readonly #registry: SaveStateRegistry
  readonly #settings: StreamSettings
  readonly #onSection: ((progress: SectionProgress) => void) | undefined
  readonly #pageSize: number
  #configuration: VmstateDescription | undefined
  readonly #described: SectionDescription[] = []
  readonly #turn = createTurnBudget()

  constructor(f: QEMUFileWriter, registry: SaveStateRegistry, options: StreamSaverOptions = {}) {
    this.#f = f
    this.#registry = registry
    this.#settings = { ...defaultStreamSettings, ...options.settings }
    this.#onSection = options.onSection
    this.#pageSize = options.targetPageBytes ?? 4096
  }

  /** What follows goes there. */
  redirect(f: QEMUFileWriter): void {
    this.#f = f
  }

  /** Header and CONFIGURATION. */
  begin(configuration: StreamConfiguration): void {
    trace.savevm_state_header({})
    this.#f.putBe32(STREAM_MAGIC)
    this.#f.putBe32(STREAM_VERSION)
    if (!this.#settings.sendConfiguration) return
    this.#configuration = saveConfiguration(this.#f, configuration)
  }

  /** The caller flushes: commands are to reach the peer at once. */
  command(name: CommandName, payload: Uint8Array = new Uint8Array(0)): void {
    const { id, length } = COMMANDS[name]
    if (length >= 0 && payload.length !== length)
      throw new RangeError(`${name} has ${length} bytes, not ${payload.length}`)
    trace.savevm_command_send({ command: id, len: payload.length })
    COMMAND_EVENTS[name]?.(payload)
    this.#f.putByte(Element.COMMAND)
    this.#f.putBe16(id)
    this.#f.putBe16(payload.length)
    this.#f.putBuffer(payload)
  }

  /** START of every live handler. */
  async setup(): Promise<void> {
    trace.savevm_state_setup({})
    for (const entry of this.#live()) await this.#section('start', entry, () => entry.live!.saveSetup(this.#f))
  }

  /**
   * PART of every live handler.
   * @param stop asked before each handler; true ends the pass (a rate limit)
   * @returns true when no handler has anything worth another pass
   */
  async iterate(stop: () => boolean = () => false): Promise<boolean> {
    trace.savevm_state_iterate({})
    let finished = true
    for (const entry of this.#live()) {
      if (entry.live!.iterates === false) continue
      if (stop()) return false
      await this.#section('part', entry, async () => {
        if (!(await entry.live!.saveLiveIterate(this.#f))) finished = false
      })
      if (!finished && entry.live!.goesFirst) return false
    }
    return finished
  }

  /**
   * END of every live handler. The guest is stopped.
   * @param postcopy leaves out the handlers that go on after the switch; {@link completePostcopy} ends those
   */
  async complete({ postcopy = false } = {}): Promise<void> {
    if (this.#settings.sendSwitchoverStart) this.command('SWITCHOVER_START')
    for (const entry of this.#live()) {
      if (postcopy && entry.live!.saveLiveCompletePostcopy) continue
      await this.#section('end', entry, () => entry.live!.saveLiveCompletePrecopy(this.#f))
    }
  }

  /** END of the handlers that went on after the switch to postcopy, and EOF; no description follows. */
  async completePostcopy(): Promise<void> {
    for (const entry of this.#live()) {
      const { live } = entry
      if (live?.saveLiveCompletePostcopy) {
        await this.#section('end', entry, () => live.saveLiveCompletePostcopy!(this.#f))
      }
    }
    this.#f.putByte(Element.EOF)
  }

  /** FULL of every device that is needed, by priority. */
  async saveDevices(): Promise<void> {
    for (const entry of this.#registry.entries()) {
      const device = entry.device
      if (!device) continue
      if (!device.needed()) {
        trace.savevm_section_skip({ id: entry.idstr, section_id: entry.sectionId })
        continue
      }
      await this.#section('full', entry, () => {
        trace.vmstate_save({ idstr: entry.idstr, vmsd_name: device.vmstate.name })
        if (this.#settings.suppressVmdesc) device.codec.save(device.state, this.#f)
        else {
          // Saves and describes in one go, so that the table's hooks run once.
          const vmstate = device.codec.describe(device.state, { out: this.#f, style: this.#settings.vmdescStyle })
          this.#described.push({ name: entry.idstr, instanceId: entry.instanceId, vmstate })
        }
      })
      await this.#turn()
    }
  }

  /** EOF and the JSON description. */
  end(): void {
    this.#f.putByte(Element.EOF)
    if (this.#settings.suppressVmdesc) return
    const configuration = this.#settings.vmdescStyle === '10.0' ? this.#configuration : undefined
    const description = formatVmdescription({ configuration, pageSize: this.#pageSize, devices: this.#described })
    const text = new TextEncoder().encode(description)
    this.#f.putByte(Element.VMDESCRIPTION)
    this.#f.putBe32(text.length)
    this.#f.putBuffer(text)
  }

  #live(): SectionEntry[] {
    return this.#registry.entries().filter(({ live }) => live && (live.isActive?.() ?? true))
  }

  async #section(
    type: SectionProgress['type'],
    entry: SectionEntry,
    payload: () => void | Promise<void>,
  ): Promise<void> {
    const f = this.#f
    const offset = f.position
    const began = performance.now()
    const { idstr, instanceId, sectionId, version, priority } = entry
    trace.savevm_section_start({ id: idstr, section_id: sectionId })
    f.putByte(TYPE_BYTE[type])
    f.putBe32(sectionId)
    if (type === 'start' || type === 'full') {
      f.putStr8(idstr)
      f.putBe32(instanceId)
      f.putBe32(version)
    }
    const payloadAt = f.position
    try {
      const pending = payload()
      if (pending) await pending
    } catch (cause) {
      trace.savevm_section_end({ id: idstr, section_id: sectionId, ret: -1 })
      throw new SectionSaveError(idstr, instanceId, cause)
    }
    const bytes = f.position - payloadAt
    if (this.#settings.sendSectionFooter) {
      f.putByte(Element.SECTION_FOOTER)
      f.putBe32(sectionId)
    }
    trace.savevm_section_end({ id: idstr, section_id: sectionId, ret: 0 })
    const ms = performance.now() - began
    if (type === 'end' || type === 'full') {
      const kind = entry.live ? 'iterable' : 'non-iterable'
      trace.vmstate_downtime_save({ type: kind, idstr, instance_id: instanceId, downtime: Math.round(ms * 1000) })
    }
    this.#onSection?.({
      direction: 'save',
      type,
      idstr,
      instanceId,
      sectionId,
      version,
      priority,
      offset,
      bytes,
      ms,
    })
  }
}

const str8 = (bytes: Uint8Array, at: number) =>
  new TextDecoder().decode(bytes.subarray(at + 1, at + 1 + (bytes[at] ?? 0)))

/** Of the commands that have an event of their own. */
const COMMAND_EVENTS: Readonly<Partial<Record<CommandName, (payload: Uint8Array) => void>>> = {
  OPEN_RETURN_PATH: () => trace.savevm_send_open_return_path({}),
  PING: (payload) => trace.savevm_send_ping({ val: new DataView(payload.buffer, payload.byteOffset).getUint32(0) }),
  POSTCOPY_ADVISE: () => trace.qemu_savevm_send_postcopy_advise({}),
  POSTCOPY_LISTEN: () => trace.savevm_send_postcopy_listen({}),
  POSTCOPY_RUN: () => trace.savevm_send_postcopy_run({}),
  POSTCOPY_RAM_DISCARD(payload) {
    const id = str8(payload, 1)
    trace.qemu_savevm_send_postcopy_ram_discard({ id, len: Math.floor((payload.length - 3 - id.length) / 16) })
  },
  PACKAGED: () => trace.qemu_savevm_send_packaged({}),
  ENABLE_COLO: () => trace.savevm_send_colo_enable({}),
  POSTCOPY_RESUME: () => trace.savevm_send_postcopy_resume({}),
  RECV_BITMAP: (payload) => trace.savevm_send_recv_bitmap({ name: str8(payload, 0) }),
  SWITCHOVER_START: () => trace.savevm_send_switchover_start({}),
}

const TYPE_BYTE = {
  start: Element.SECTION_START,
  part: Element.SECTION_PART,
  end: Element.SECTION_END,
  full: Element.SECTION_FULL,
} as const
