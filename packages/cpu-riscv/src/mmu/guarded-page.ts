import type { HartState } from '../hart/hart-state.ts'
import { HART_AREA, SLOT_BYTES, SLOTS_PER_PAGE } from '../hart/layout.ts'
import type { DecodedCode } from '../interpreter/contract.ts'
import { SLOT, SPECIAL_HANDLER } from '../interpreter/slots.ts'

/** More than any threshold, so that an instruction here never gets hot: it is decoded anew for each run. */
const NEVER_HOT = 0x8000

/**
 * Decoded slots for a page of code that PMP allows only in part. One instruction is decoded at a time; all other slots say that
 * the page ends there, so that whatever runs next is fetched, and asked about, by itself.
 */
export class GuardedPage {
  readonly #code: DecodedCode
  readonly #view: DataView
  /** Memory offset of the slots. */
  readonly slots: number
  /** Offset in the view of the slot that is decoded; -1 before the first. */
  #exposed = -1

  constructor(buffer: SharedArrayBuffer, hart: HartState, code: DecodedCode) {
    this.#code = code
    this.#view = new DataView(buffer)
    this.slots = hart.base + HART_AREA.guarded
  }

  /**
   * Decodes one instruction, of the page in force, which has these slots.
   * @param offset of the instruction in the page @returns memory offset of its slot
   */
  expose(offset: number): number {
    const view = this.#view
    if (this.#exposed < 0) {
      for (let i = 0; i < SLOTS_PER_PAGE + 2; i++) {
        view.setUint32(this.slots + i * SLOT_BYTES, SPECIAL_HANDLER.pageEnd, true)
      }
    } else view.setUint32(this.#exposed, SPECIAL_HANDLER.pageEnd, true)
    const slot = this.slots + (offset >> 1) * SLOT_BYTES
    this.#exposed = slot
    this.#code.decode(slot)
    view.setUint16(slot + SLOT.heat16, NEVER_HOT, true)
    return slot
  }
}
