import type { RamBlock } from '@ferryvm/core'
import type { MigrationContext } from '../context.ts'
import type { TrackedBlock } from '../ram/ram-save.ts'
import { deviceTail, PageJournal } from './page-journal.ts'

/**
 * The source's journal: at the switch what the destination lacks, with device state; behind it the rest of memory, which stands
 * still from then on, so that the guest can also go back to the switch.
 */
export class SourceJournal implements AsyncDisposable {
  readonly #context: MigrationContext
  readonly #journal: PageJournal
  readonly #lacking: ReadonlyMap<RamBlock, Int32Array>
  #rest: Promise<void> | undefined
  #over = false

  private constructor(context: MigrationContext, journal: PageJournal, blocks: readonly TrackedBlock[]) {
    this.#context = context
    this.#journal = journal
    this.#lacking = new Map(blocks.map(({ block, dirty }) => [block, dirty.slice()]))
  }

  /** The machine is stopped. @param blocks with the pages that have not been sent @returns undefined: none is wanted */
  static async begin(context: MigrationContext, blocks: readonly TrackedBlock[]): Promise<SourceJournal | undefined> {
    const journal = await PageJournal.begin(context, 'source')
    return journal && new SourceJournal(context, journal, blocks)
  }

  /** Before the destination may run the guest. */
  async switchOver(digest: string): Promise<void> {
    await this.#journal.pages(
      (block, page) => ((this.#lacking.get(block)?.[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0,
    )
    await this.#journal.devices(await deviceTail(this.#context))
    await this.#journal.note({ package: digest, ran: true })
  }

  /** In the background, as long as the migration lasts. */
  keepRest(): void {
    this.#rest = this.#journal
      .pages(
        () => true,
        () => this.#over,
      )
      .then(() => (this.#over ? undefined : this.#journal.note({ whole: true })))
      .catch((error: Error) => this.#context.log.warn(`page journal: ${error.message}`))
  }

  /** The destination has everything. */
  async completed(): Promise<void> {
    await this.#end({ completed: true })
  }

  /** The guest goes on here: the journal is of no use. */
  async takenBack(): Promise<void> {
    await this.#end({ ran: false, devices: undefined })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true
    await this.#rest
    await this.#journal[Symbol.asyncDispose]()
  }

  async #end(note: Parameters<PageJournal['note']>[0]): Promise<void> {
    this.#over = true
    await this.#rest
    await this.#journal.note(note).catch((error: Error) => this.#context.log.warn(`page journal: ${error.message}`))
  }
}
