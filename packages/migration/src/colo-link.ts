import type {
  Channel,
  Logger,
  Machine,
  QEMUFileReader,
  QEMUFileWriter,
  RamBlock,
  StreamLoader,
  StreamSaver,
} from '@ferryvm/core'
import type { MigrationContext } from './context.ts'
import { loadDeviceState, saveDeviceState } from './device-state.ts'
import type { PageDecoder } from './ram/page-decoding.ts'
import { RAM_PAGE, RAM_ZERO } from './ram/ram-records.ts'

export type ColoMode = 'none' | 'primary' | 'secondary'
/** Why COLO ended, as `query-colo-status` says it. */
export type ColoReason = 'none' | 'request' | 'error' | 'processing'

export interface ColoStatus {
  readonly mode: ColoMode
  readonly lastMode: ColoMode
  readonly reason: ColoReason
}

/**
 * What goes on on the channel when the stream is over and `x-colo` is on. `createColo` of @ferryvm/colo makes one, for one
 * machine. Spec: protocol.md section 10.
 */
export interface Colo {
  readonly status: ColoStatus
  /** Before the guest is sent, and before it is taken. @throws no pair can form; the guest stays where it is */
  prepare(): Promise<void>
  /**
   * The machine is stopped and all of it was sent; the dirty log is on. Resolves when the peer awaits
   * the first checkpoint; until then this is a migration that may fail, and the peer must not run the guest.
   * @returns runs until this machine goes on alone; throws when it must not, having stopped it
   */
  primary(link: ColoPrimaryLink): Promise<() => Promise<void>>
  /** The machine is loaded and has not run. Resolves when it goes on alone. @throws when it must not, or cannot */
  secondary(link: ColoSecondaryLink): Promise<void>
  /** The peer is gone, says whoever knows. @throws MigrationStateError not in COLO, or asked before */
  lostHeartbeat(): void
  /** The process ends: so does COLO, without a failover. */
  stop(): Promise<void>
  onExit(listener: (facts: { mode: ColoMode; reason: ColoReason }) => void): Disposable
}

interface ColoLink {
  readonly machine: Machine
  readonly reader: QEMUFileReader
  readonly writer: QEMUFileWriter
  readonly log: Logger
  close(reason: Error): Promise<void>
}

export interface ColoPrimaryLink extends ColoLink {
  /** The peer has the first checkpoint: from now on the one survives the loss of the other. */
  paired(): void
  /** `x-checkpoint-delay`, as it is now, ms. */
  readonly delayMs: number
  /** Every page written since the last time, as END sections, then EOF. The machine is stopped. */
  sendMemory(): Promise<void>
  /** All device sections, then EOF. The machine is stopped. */
  deviceState(): Promise<Uint8Array>
}

export interface ColoSecondaryLink extends ColoLink {
  /** What `sendMemory` sent: pages go to `sink` and not to memory. */
  receiveMemory(sink: PageSink): Promise<void>
  /** @throws the machine's state is then undefined */
  loadDeviceState(bytes: Uint8Array): Promise<void>
}

export interface PageSink {
  /** Room for the contents of that page. */
  page(block: RamBlock, offset: number): Uint8Array
}

export function primaryLink(
  context: MigrationContext,
  channel: Channel,
  saver: StreamSaver,
  writer: QEMUFileWriter,
  reader: QEMUFileReader,
): ColoPrimaryLink {
  const { machine, log } = context
  return {
    machine,
    reader,
    writer,
    log,
    close: (reason) => channel.close(reason),
    paired: () => context.setStatus('colo'),
    get delayMs() {
      return context.parameters.values['x-checkpoint-delay']
    },
    async sendMemory() {
      await saver.complete()
      writer.putByte(0) // EOF
      await writer.flush()
    },
    deviceState: () => saveDeviceState(context),
  }
}

export function secondaryLink(
  context: MigrationContext,
  channel: Channel,
  loader: StreamLoader,
  reader: QEMUFileReader,
  writer: QEMUFileWriter,
): ColoSecondaryLink {
  const { machine, log, ramLoader } = context
  return {
    machine,
    reader,
    writer,
    log,
    close: (reason) => channel.close(reason),
    async receiveMemory(sink) {
      ramLoader.redirect(decodersInto(sink))
      await loader.loadSections()
    },
    loadDeviceState: (bytes) => loadDeviceState(context, bytes),
  }
}

const decodersInto = (sink: PageSink): readonly PageDecoder[] => [
  {
    flag: RAM_ZERO,
    headerBytes: 0,
    payloadBytes: () => 1,
    decode(f, _, { block, offset, fail }) {
      const fill = f.getByte()
      if (fill !== 0) throw fail(`a zero page is filled with 0x${fill.toString(16)}`)
      sink.page(block, offset).fill(0)
    },
  },
  {
    flag: RAM_PAGE,
    headerBytes: 0,
    payloadBytes: (_, { block }) => block.pageBytes,
    decode: (f, _, { block, offset }) => f.getBuffer(sink.page(block, offset)),
  },
]
