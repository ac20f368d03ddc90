import { FerryError } from '../errors/ferry-error.ts'
import { StreamFormatError } from '../errors/stream-error.ts'
import { isVmstateError, VmstateHookError } from '../errors/vmstate-error.ts'
import { MigrationPriority } from '../registry/migration-priority.ts'
import type { SaveStateRegistry, SectionEntry } from '../registry/registry.ts'

const nameOf = (entry: SectionEntry): string => `${entry.idstr}/${entry.instanceId}`

/**
 * While it loaded, a device looked at another one that had not been loaded yet, and what it saw was that one's reset state.
 * Only with a {@link LoadOrderSanitizer}.
 */
export class LoadOrderError extends StreamFormatError {
  override readonly code = 'FERRY_LOAD_ORDER'
  /** Section that was being loaded, as `idstr/instance`. */
  readonly section: string
  /** Section that came too late. */
  readonly needs: string
  /** The least priority of `needs` that puts it first; undefined: there is none that high. */
  readonly priority: number | undefined
  constructor(section: SectionEntry, needs: SectionEntry, offset: number, options?: ErrorOptions) {
    const [name, priority] = levelAbove(section.priority) ?? []
    const advice =
      priority === undefined
        ? `lower the priority of ${nameOf(section)}: it is the highest there is`
        : `give ${nameOf(needs)} the priority MigrationPriority.${name} (${priority}) or a higher one`
    super(
      offset,
      `${nameOf(section)} (priority ${section.priority}) used ${needs.owner} while loading, and ` +
        `${nameOf(needs)} (priority ${needs.priority}) had not been loaded: ${advice}`,
      options,
    )
    this.section = nameOf(section)
    this.needs = nameOf(needs)
    this.priority = priority
  }
}

const levelAbove = (priority: number): [string, number] | undefined =>
  Object.entries(MigrationPriority)
    .sort((a, b) => a[1] - b[1])
    .find(([, level]) => level > priority)

/**
 * Debugging aid for authors of devices: finds sections whose loading depends on others that come later. The machine tells it
 * who touches whom, the loader which section is being loaded. A device that a stream does not have at all is no finding.
 */
export class LoadOrderSanitizer {
  #loading: SectionEntry | undefined
  readonly #loaded = new Set<string>()
  /** Device that was touched too early: the first section that did. */
  readonly #early = new Map<string, SectionEntry>()

  #entries: readonly SectionEntry[] = []

  /** A stream begins. @param entries sections of devices, in order */
  begin(entries: readonly SectionEntry[]): void {
    this.#entries = entries
    this.#loading = undefined
    this.#loaded.clear()
    this.#early.clear()
  }

  /** Device `id` is being used: its registers, its interrupt inputs, its translation. */
  touch(id: string): void {
    const by = this.#loading
    if (!by || by.owner === id || this.#loaded.has(id) || this.#early.has(id)) return
    this.#early.set(id, by)
  }

  /**
   * Runs a part of a section's load path that does not wait for the stream.
   * @throws LoadOrderError a device that was loaded before has used this one, or this one failed after using a later one
   */
  during<T>(entry: SectionEntry, offset: number, run: () => T): T {
    const by = this.#early.get(entry.owner)
    if (by) throw new LoadOrderError(by, entry, offset)
    this.#loading = entry
    try {
      return run()
    } catch (cause) {
      // Whatever it stumbled over: the state it looked at was not there yet.
      const needs = this.#entries.find((other) => this.#early.get(other.owner) === entry)
      throw needs ? new LoadOrderError(entry, needs, offset, { cause }) : cause
    } finally {
      this.#loading = undefined
    }
  }

  /** Nothing of the section is left to do. */
  done(entry: SectionEntry): void {
    this.#loaded.add(entry.owner)
  }
}

interface HeldBack {
  readonly entry: SectionEntry
  readonly offset: number
  run(): void
}

/**
 * Puts the effects of sections into the order of their priorities, whatever order a sender without priorities sent them in.
 * Rows must be read as they come, for only they know how long a section is; but what a section does with its state
 * (`postLoad`) waits until every section of higher priority has been loaded, or the stream is over.
 */
export class LoadOrder {
  readonly #entries: readonly SectionEntry[]
  readonly #loaded = new Set<SectionEntry>()
  #held: HeldBack[] = []
  readonly #sanitizer: LoadOrderSanitizer | undefined
  readonly #warn: (message: string) => void

  constructor(registry: SaveStateRegistry, warn: (message: string) => void, sanitizer: LoadOrderSanitizer | undefined) {
    this.#entries = registry.entries().filter((entry) => entry.device)
    this.#warn = warn
    this.#sanitizer = sanitizer
    sanitizer?.begin(this.#entries)
  }

  /** Whether `postLoad` of this section has to wait. */
  mustWait(entry: SectionEntry): boolean {
    return this.#awaited(entry) !== undefined
  }

  /** The rows are loaded; `effects` is the hook that was left out. */
  hold(entry: SectionEntry, offset: number, effects: () => void): void {
    this.#held.push({ entry, offset, run: effects })
  }

  /** A section is complete but for what is held back. May be called again for it where a page of memory was missing. */
  loaded(entry: SectionEntry): void {
    this.#loaded.add(entry)
    const isHeld = this.#held.some((held) => held.entry === entry)
    if (!isHeld) this.#sanitizer?.done(entry)
    for (const held of inOrder(this.#held)) {
      if (this.mustWait(held.entry)) continue
      this.#warn(`${nameOf(held.entry)} came before ${nameOf(entry)}, which has a higher priority: held back`)
      this.#release(held)
    }
  }

  /** The stream is over: what was waited for does not come. */
  finish(): void {
    for (const held of inOrder(this.#held)) this.#release(held)
  }

  #release(held: HeldBack): void {
    const { entry, offset, run } = held
    try {
      if (this.#sanitizer) this.#sanitizer.during(entry, offset, run)
      else run()
      this.#held = this.#held.filter((other) => other !== held)
      this.#sanitizer?.done(entry)
    } catch (cause) {
      const error = FerryError.isInstance(cause) ? cause : new VmstateHookError('postLoad', cause)
      throw isVmstateError(error) ? error.inSection(nameOf(entry)) : error
    }
  }

  /** The first section of higher priority that has not come. */
  #awaited(entry: SectionEntry): SectionEntry | undefined {
    for (const other of this.#entries) {
      if (other.priority <= entry.priority) return undefined
      if (!this.#loaded.has(other)) return other
    }
    return undefined
  }
}

/** By priority, then as they came. */
const inOrder = (held: readonly HeldBack[]): HeldBack[] => [...held].sort((a, b) => b.entry.priority - a.entry.priority)
