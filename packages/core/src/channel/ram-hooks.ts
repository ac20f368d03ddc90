import type { RamBlock } from '../memory/guest-memory.ts'

/** `setup`: the block list has just been sent. `round`: one pass over dirty pages. `finish`: the guest is stopped. */
export type RamPhase = 'setup' | 'round' | 'finish'

/**
 * Guest memory that moves beside the stream. A channel has this whose transport can write the memory of the machine at the
 * other end; it keeps to itself how. In the stream a HOOK record stands where it happens. Spec: ram.md section 1.
 */
export interface RamHooks {
  /** On the end that connected. */
  readonly sender?: RamHookSender
  /** On the end that was connected to. */
  readonly receiver?: RamHookReceiver
}

/** Order of calls: for each phase `begin`, any number of `savePage` (none in `setup`), `end`. One call at a time. */
export interface RamHookSender {
  /**
   * The HOOK record has gone out, and the peer serves memory from now on.
   * @param blocks in the order of the stream's block list, the same objects every time
   */
  begin(phase: RamPhase, blocks: readonly RamBlock[]): Promise<void>
  /**
   * Takes over one page, or more that follow each other; they are read at some time until `end` resolves. A page that the
   * guest writes meanwhile comes again.
   * @returns a promise to hold the caller back
   */
  savePage(block: RamBlock, offset: number, bytes: number): void | Promise<void>
  /** Resolves once everything is in the peer's memory, and the stream goes on. */
  end(phase: RamPhase): Promise<void>
  /** Of this migration. `zeroPages` were handed over and had nothing to move. */
  readonly stats: { readonly bytes: number; readonly zeroPages: number }
}

export interface RamHookReceiver {
  /**
   * The stream has a HOOK record: serves the peer until its phase ends.
   * @param blocks in the order in which the stream listed them
   */
  receive(blocks: readonly RamBlock[]): Promise<void>
}
