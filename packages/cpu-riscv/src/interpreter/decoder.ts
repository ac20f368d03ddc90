import { LAYOUT, PAGE_SLOT_BYTES, SLOT_BYTES, SLOTS_PER_PAGE } from '../hart/layout.ts'
import { isRelative } from '../isa/formats.ts'
import { type Decoded, decode, isWide } from '../isa/table.ts'
import type { DecodedCode } from './contract.ts'
import { type Flow, handlerNumber, SLOT, SPECIAL_HANDLER } from './slots.ts'

const PAGE_BYTES = SLOTS_PER_PAGE * 2

/** Byte offset from the hart's base of an operand's register; `file` is the operand's letter in the format's syntax. */
const xAt = (register: number): number => LAYOUT.x + register * 8
const fAt = (register: number): number => LAYOUT.f + register * 8

interface OperandFiles {
  readonly fpRd: boolean
  readonly fpRs1: boolean
  readonly fpRs2: boolean
}
const filesOf = new Map<string, OperandFiles>()
const files = (syntax: string): OperandFiles => {
  let known = filesOf.get(syntax)
  if (!known) {
    known = { fpRd: syntax.includes('D'), fpRs1: syntax.includes('S'), fpRs2: syntax.includes('T') }
    filesOf.set(syntax, known)
  }
  return known
}

/** Decodes instructions of the page in force (LAYOUT.pageSlots32, pageMem32) into their slots. */
export class SlotDecoder implements DecodedCode {
  readonly #memory: WebAssembly.Memory
  #view: DataView
  readonly #hartBase: number
  readonly #has: (extension: string) => boolean

  constructor(memory: WebAssembly.Memory, hartBase: number, has: (extension: string) => boolean) {
    this.#memory = memory
    this.#view = new DataView(memory.buffer)
    this.#hartBase = hartBase
    this.#has = has
  }

  memoryGrew(): void {
    this.#view = new DataView(this.#memory.buffer)
  }

  #state32(offset: number): number {
    return this.#view.getUint32(this.#hartBase + offset, true)
  }

  /** Import `decode`: what the handler of an undecoded slot calls. */
  decode(slot: number): void {
    const offset = ((slot >>> 0) - this.#state32(LAYOUT.pageSlots32)) / (SLOT_BYTES / 2)
    const mem = this.#state32(LAYOUT.pageMem32) + offset
    const low = this.#view.getUint16(mem, true)
    if (!isWide(low)) this.#write(slot, offset, low)
    else if (offset < PAGE_BYTES - 2) this.#write(slot, offset, low | (this.#view.getUint16(mem + 2, true) << 16))
    else this.#view.setUint16(slot + SLOT.handler16, SPECIAL_HANDLER.straddle, true)
  }

  /**
   * Decodes an instruction of which the second half lies in the next page. The slot keeps the handler `straddle`, since
   * the next page may be another one when it runs again.
   *
   * @returns the number of the handler that runs the instruction
   */
  decodeStraddling(slot: number, highHalf: number): number {
    const mem = this.#state32(LAYOUT.pageMem32) + PAGE_BYTES - 2
    const insn = this.#view.getUint16(mem, true) | (highHalf << 16)
    this.#view.setInt32(this.#hartBase + LAYOUT.straddleInsn32, insn, true)
    this.#write(slot, PAGE_BYTES - 2, insn)
    const handler = this.#view.getUint16(slot + SLOT.handler16, true)
    this.#view.setUint16(slot + SLOT.handler16, SPECIAL_HANDLER.straddle, true)
    return handler
  }

  #write(slot: number, offset: number, insn: number): void {
    const view = this.#view
    const decoded = decode(insn, this.#has)
    if (!decoded) {
      view.setUint16(slot + SLOT.handler16, SPECIAL_HANDLER.illegal, true)
      return
    }
    const { row, operands, bytes } = decoded
    const { fpRd, fpRs1, fpRs2 } = files(row.format.syntax)
    const rd = fpRd ? fAt(operands.rd) : operands.rd === 0 ? LAYOUT.sink : xAt(operands.rd)
    view.setUint16(slot + SLOT.rd16, rd, true)
    view.setUint16(slot + SLOT.rs1At16, fpRs1 ? fAt(operands.rs1) : xAt(operands.rs1), true)
    view.setUint16(slot + SLOT.rs2At16, fpRs2 ? fAt(operands.rs2) : xAt(operands.rs2), true)
    const flow = flowOf(decoded, offset)
    view.setInt32(slot + SLOT.imm32, this.#immediate(decoded, flow), true)
    view.setUint16(slot + SLOT.extra16, row.format.syntax.includes('R') ? fAt(operands.rs3) : operands.rs1, true)
    view.setUint16(slot + SLOT.handler16, handlerNumber(row, bytes, flow), true)
  }

  #immediate({ row, operands }: Decoded, flow: Flow): number {
    if (flow === 'forward' || flow === 'backward') return operands.imm * (SLOT_BYTES / 2)
    return /[mM]/.test(row.format.syntax) ? operands.rm : operands.imm
  }

  initPage(slots: number, fresh: boolean): void {
    if (!fresh) new Uint8Array(this.#view.buffer, slots, PAGE_SLOT_BYTES).fill(0)
    for (let end = SLOTS_PER_PAGE; end < SLOTS_PER_PAGE + 2; end++) {
      this.#view.setUint32(slots + end * SLOT_BYTES, SPECIAL_HANDLER.pageEnd, true)
    }
  }

  clearSlots(slots: number, offset: number, bytes: number): void {
    // An instruction of 4 bytes may begin one halfword earlier.
    const first = Math.max(0, (offset >> 1) - 1)
    const last = Math.min(SLOTS_PER_PAGE - 1, (offset + bytes - 1) >> 1)
    for (let index = first; index <= last; index++) this.#view.setUint32(slots + index * SLOT_BYTES, 0, true)
  }
}

const flowOf = ({ row, operands, bytes }: Decoded, offset: number): Flow => {
  if (!isRelative(row.format)) return 'straight'
  const target = offset + operands.imm
  if (target < 0 || target >= PAGE_BYTES || offset + bytes > PAGE_BYTES) return 'far'
  return operands.imm > 0 ? 'forward' : 'backward'
}
