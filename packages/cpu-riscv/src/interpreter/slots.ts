/**
 * Decoded instructions in memory, one 16-byte slot per halfword of a page. Which handler runs a slot is decided when it
 * is decoded, so that the handler itself knows its length and whether its branch stays in the page.
 */
import { isRelative } from '../isa/formats.ts'
import type { Instruction } from '../isa/row.ts'
import { COMPRESSED, INSTRUCTIONS } from '../isa/table.ts'

/** Byte offsets in a slot. Register operands are byte offsets from the hart's base. */
export const SLOT = {
  handler16: 0,
  /** How often a jump came here while it was interpreted; the number of the region when the handler is `compiled`. */
  heat16: 2,
  /** Immediate; slots to go for a branch inside the page; rounding mode; number of a CSR. */
  imm32: 4,
  rd16: 8,
  rs1At16: 10,
  rs2At16: 12,
  /** rs3, or the rs1 field of a CSR instruction. */
  extra16: 14,
} as const

/** Handlers that are not an instruction. */
export const SPECIAL_HANDLER = {
  /** Zero: memory that was never decoded. */
  decode: 0,
  pageEnd: 1,
  straddle: 2,
  illegal: 3,
  /** A region of compiled code begins here. */
  compiled: 4,
} as const
export const SPECIAL_HANDLERS = 5

/**
 * Where a relative branch or jump goes: `far` out of the page, or within it, where only backward ones need to ask whether
 * someone wants the loop to end.
 */
export type Flow = 'straight' | 'far' | 'forward' | 'backward'

export interface Handler {
  readonly row: Instruction
  readonly bytes: 2 | 4
  readonly flow: Flow
}

const shortNames = new Set(COMPRESSED.map((row) => row.expandsTo))

/** Handler of number SPECIAL_HANDLERS + index. */
export const HANDLERS: readonly Handler[] = INSTRUCTIONS.flatMap((row) => {
  const lengths: readonly (2 | 4)[] = shortNames.has(row.name) ? [4, 2] : [4]
  const flows: readonly Flow[] = isRelative(row.format) ? ['far', 'forward', 'backward'] : ['straight']
  return lengths.flatMap((bytes) => flows.map((flow) => ({ row, bytes, flow })))
})

const FLOWS: readonly Flow[] = ['straight', 'far', 'forward', 'backward']
/** By row: the handler of each length and flow. */
const numbers = new Map<Instruction, number[]>()
const variant = (bytes: 2 | 4, flow: Flow): number => FLOWS.indexOf(flow) * 2 + (bytes >> 2)
for (const [index, { row, bytes, flow }] of HANDLERS.entries()) {
  let variants = numbers.get(row)
  if (!variants) numbers.set(row, (variants = []))
  variants[variant(bytes, flow)] = index + SPECIAL_HANDLERS
}

export const handlerNumber = (row: Instruction, bytes: 2 | 4, flow: Flow): number => {
  const number = numbers.get(row)?.[variant(bytes, flow)]
  if (number === undefined) throw new Error(`no handler for ${row.name}/${bytes}/${flow}`)
  return number
}
