import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import type { Vmstate, VmstateCodec } from '../vmstate/vmstate.ts'
import type { MigrationPriority } from './migration-priority.ts'

export interface RegisterOptions {
  readonly instanceId?: number
  readonly priority?: MigrationPriority
  /** Device path: the section's idstr is `<path>/<vmstate name>`. Spec: stream.md section 2. */
  readonly path?: string
  /** Top-level `needed`: false leaves the section out when saving; never asked on load. */
  readonly needed?: () => boolean
  /** The device whose state it is, for the order sanitizer. Default: the section's idstr. */
  readonly owner?: string
  /** Layouts of other senders, for versions that the vmstate itself does not read. Tried in order. */
  readonly alternatives?: readonly AlternativeLayout[]
}

/**
 * How another release writes the section, where versions do not grow out of one another. Its `postLoad` brings what
 * arrived into the section's own state. Never used for saving.
 */
export interface AlternativeLayout<S = any> {
  readonly vmstate: Vmstate<S>
  readonly state: S
}

/** Which of a live handler's sections it is. */
export type LiveSection = 'start' | 'part' | 'end'

/** Bytes everywhere. Spec: ram.md sections 1 to 3. */
export interface SaveVmHandlers {
  /** Asked when something is saved: false leaves it out. Absent: always. */
  isActive?(): boolean
  /** Those behind it get no turn before its iterate has resolved true. */
  readonly goesFirst?: boolean
  /** Whether there are parts between its start and its end. Default true. */
  readonly iterates?: boolean
  saveSetup(f: QEMUFileWriter): void | Promise<void>
  saveLivePending(): { mustPrecopy: number; canPostcopy: number }
  /** Resolves true once there is nothing left worth another round. Never called where `iterates` is false. */
  saveLiveIterate(f: QEMUFileWriter): boolean | Promise<boolean>
  saveLiveCompletePrecopy(f: QEMUFileWriter): void | Promise<void>
  saveLiveCompletePostcopy?(f: QEMUFileWriter): void | Promise<void>
  /** Yields how many bytes it needs next, or what it waits for beside the stream. */
  loadState(f: QEMUFileReader, version: number, section: LiveSection): Generator<number | Promise<void>, void>
  saveCleanup?(): void
}

export interface SectionLayout {
  readonly vmstate: Vmstate<any>
  readonly codec: VmstateCodec<any>
  readonly state: any
  /** Loads the rows without the table's own `postLoad`, which the caller runs later. */
  readonly rowsOnly: VmstateCodec<any>
}

export interface SectionEntry {
  readonly idstr: string
  readonly instanceId: number
  readonly priority: MigrationPriority
  readonly version: number
  /** Number used on the wire when we send; unique, in order of registration. */
  readonly sectionId: number
  readonly owner: string
  readonly live?: SaveVmHandlers
  readonly device?: {
    readonly vmstate: Vmstate<any>
    readonly codec: VmstateCodec<any>
    readonly state: any
    needed(): boolean
    /** The layout that reads this version: the section's own, or else an alternative. */
    layout(version: number): SectionLayout | undefined
    /** Generates the code of all layouts now. */
    prepare(): void
  }
}

/** Per machine. Spec: stream.md sections 2 and 8. */
export interface SaveStateRegistry {
  /** @throws DuplicateSectionError @throws RegistrySealedError once a migration has started */
  register<S>(vmstate: Vmstate<S>, state: S, options?: RegisterOptions): Disposable
  /** RAM and other state that is sent in rounds while the guest runs. */
  registerLive(name: string, version: number, handlers: SaveVmHandlers, options?: RegisterOptions): Disposable
  /** A device that cannot be saved: blocks migration, with the reason. */
  block(reason: string): Disposable
  readonly blockers: readonly string[]
  /** In stream order. */
  entries(): readonly SectionEntry[]
  /** As the loader looks sections up: exact (idstr, instance), then old names without the device path. */
  find(idstr: string, instanceId: number): SectionEntry | undefined
  /** No registrations while a migration runs. */
  seal(): Disposable
}
