import { hasCsrCode } from '../csr/csr-code.ts'
import { type Decoded, decode, isWide } from '../isa/table.ts'
import { type RowKind, rowKind } from './row-kind.ts'

/** Guest instructions of one region at most, and of one of its blocks. */
export const MAX_REGION_INSTRUCTIONS = 400
const MAX_BLOCK_INSTRUCTIONS = 200
/** Bytes before and after a jump through a register in which its targets are looked for, and how many it may have. */
const TABLE_REACH = 4096
const MAX_TARGETS = 200

/**
 * Addresses in a region count in bytes from the start of the page that its entry lies in, at whatever virtual address that
 * page is: `at` is negative before it, 4096 and up after it.
 */
export interface Step {
  readonly at: number
  readonly bytes: 2 | 4
  readonly decoded: Decoded
  readonly kind: RowKind
}

/** Where a block goes: to a block of the region, or out of it. */
export interface Edge {
  readonly at: number
  block: Block | undefined
  /** For a `dispatch` block: which of its successors is meant. */
  choice?: number
}

/** How a block ends. */
export type End =
  | { readonly kind: 'branch'; readonly step: Step; readonly taken: Edge; readonly next: Edge }
  /** A jump, or (without a step) the beginning of the next block. */
  | { readonly kind: 'jump'; readonly step?: Step; readonly to: Edge }
  /** A call and what follows it; `target` undefined: through a register. */
  | { readonly kind: 'call'; readonly step: Step; readonly target: number | undefined; readonly next: Edge }
  /** An instruction that the interpreter runs, and what follows it. */
  | { readonly kind: 'step'; readonly step: Step; readonly next: Edge }
  /** Through a register, for good: a return, or a jump whose targets are not known. */
  | { readonly kind: 'indirect'; readonly step: Step; readonly isReturn: boolean }
  /** Through a register to one of the targets of a jump table, or elsewhere. */
  | { readonly kind: 'switch'; readonly step: Step; readonly targets: readonly Edge[] }
  /** Leaves at an instruction that the interpreter has to run. */
  | { readonly kind: 'leave'; readonly at: number }
  /** The entrances of a loop that has several: goes to the one that was chosen. */
  | { readonly kind: 'dispatch'; readonly choices: readonly Edge[] }

/** Straight code: its steps, then its end. */
export interface Block {
  readonly at: number
  readonly steps: readonly Step[]
  readonly end: End
}

export interface Region {
  readonly entry: Block
  readonly blocks: readonly Block[]
  /** Bytes that it was made from, as [start, end) pairs. */
  readonly code: readonly (readonly [start: number, end: number])[]
  readonly instructions: number
}

export interface RegionSource {
  /** 16 bits of code; undefined where this region may not reach. */
  half(at: number): number | undefined
  /** Has the instruction run already? What never did is left out. */
  reached(at: number): boolean
  /** Do jumps come here often? */
  jumpedTo(at: number): boolean
  readonly has: (extension: string) => boolean
  readonly fusesMultiplyAdd: boolean
}

const LINK = new Set([1, 5])

export const edgesOf = (end: End): readonly Edge[] => {
  switch (end.kind) {
    case 'branch':
      return [end.taken, end.next]
    case 'jump':
      return [end.to]
    case 'call':
    case 'step':
      return [end.next]
    case 'dispatch':
      return end.choices
    case 'switch':
      return end.targets
    default:
      return []
  }
}

/**
 * Collects what can be reached from an instruction by branches and direct jumps, breadth first, up to the limit.
 * @returns undefined: there is nothing to compile
 */
export function formRegion(source: RegionSource, entryAt: number): Region | undefined {
  const steps = new Map<number, Step | undefined>()
  const stepAt = (at: number): Step | undefined => {
    if (!steps.has(at)) steps.set(at, readStep(source, at))
    return steps.get(at)
  }
  const starts = new Set([entryAt])
  const queue = [entryAt]
  let total = 0
  const scanned = new Set<number>()
  const switches = new Map<number, readonly number[]>()
  for (let next = queue.shift(); next !== undefined && total < MAX_REGION_INSTRUCTIONS; next = queue.shift()) {
    scanned.add(next)
    for (let at = next, count = 0; count < MAX_BLOCK_INSTRUCTIONS; count++) {
      const step = stepAt(at)
      if (!step) break
      total++
      at += step.bytes
      if (step.kind !== 'plain') {
        const end = endOf(step)
        const isTable = end.kind === 'indirect' && !end.isReturn
        const targets = isTable ? likelyTargets(source, step.at) : []
        if (targets.length > 0) switches.set(step.at, targets)
        for (const to of [...edgesOf(end).map((edge) => edge.at), ...targets]) {
          if (starts.has(to) || !source.reached(to)) continue
          starts.add(to)
          queue.push(to)
        }
        break
      }
      if (starts.has(at)) break
    }
  }
  const first = stepAt(entryAt)
  if (!first || first.kind === 'system') return undefined

  const blocks = new Map<number, Block>()
  const code: [number, number][] = []
  let instructions = 0
  for (const start of scanned) {
    if (!stepAt(start)) continue
    const plain: Step[] = []
    let at = start
    let end: End | undefined
    while (!end) {
      const step = stepAt(at)
      if (!step) end = { kind: 'jump', to: { at, block: undefined } }
      else if (step.kind === 'plain') {
        plain.push(step)
        at += step.bytes
        if (starts.has(at) || plain.length === MAX_BLOCK_INSTRUCTIONS)
          end = { kind: 'jump', to: { at, block: undefined } }
      } else {
        const targets = switches.get(at)?.map((to): Edge => ({ at: to, block: undefined }))
        end = targets ? { kind: 'switch', step, targets } : endOf(step, plain.at(-1))
        at += step.bytes
      }
    }
    if (at > start) code.push([start, at])
    instructions += plain.length + 1
    blocks.set(start, { at: start, steps: plain, end })
  }
  for (const { end } of blocks.values()) for (const edge of edgesOf(end)) edge.block = blocks.get(edge.at)
  const entry = blocks.get(entryAt)!
  if (switches.size > 0) pruneTables(entry)
  return { entry, blocks: reachable(entry), code, instructions }
}

/** Where a jump table in the code around `at` may lead, going by where jumps went so far. */
function likelyTargets(source: RegionSource, at: number): readonly number[] {
  const targets: number[] = []
  for (let to = at - TABLE_REACH; to < at + TABLE_REACH && targets.length < MAX_TARGETS; to += 2) {
    if (source.jumpedTo(to)) targets.push(to)
  }
  return targets
}

/** Of what a jump table might lead to, keeps what comes back to the code around it: the rest may be other functions. */
function pruneTables(entry: Block): void {
  const known = new Set([entry])
  for (const block of known) {
    if (block.end.kind === 'switch') continue
    for (const { block: next } of edgesOf(block.end)) if (next) known.add(next)
  }
  for (const { end } of reachable(entry)) {
    if (end.kind !== 'switch') continue
    for (const edge of end.targets) {
      if (edge.block && !known.has(edge.block) && !reachable(edge.block).some((b) => known.has(b)))
        edge.block = undefined
    }
  }
}

function reachable(entry: Block): readonly Block[] {
  const seen = new Set([entry])
  for (const block of seen) for (const { block: next } of edgesOf(block.end)) if (next) seen.add(next)
  return [...seen]
}

function readStep({ half, has, fusesMultiplyAdd }: RegionSource, at: number): Step | undefined {
  const low = half(at)
  if (low === undefined) return undefined
  const high = isWide(low) ? half(at + 2) : 0
  if (high === undefined) return undefined
  const decoded = decode(low | (high << 16), has)
  return decoded && { at, bytes: decoded.bytes, decoded, kind: kindOf(decoded, fusesMultiplyAdd) }
}

function kindOf({ row, operands }: Decoded, fusesMultiplyAdd: boolean): RowKind {
  return row.extension === 'zicsr' && hasCsrCode(operands.imm) ? 'plain' : rowKind(row, fusesMultiplyAdd)
}

/** Where a call goes that is an auipc and a jalr. */
function farTarget({ decoded: { operands } }: Step, before: Step | undefined): number | undefined {
  if (before?.decoded.row.name !== 'auipc' || before.decoded.operands.rd !== operands.rs1) return undefined
  return (before.at + before.decoded.operands.imm + operands.imm) & ~1
}

/** @param before the instruction before it, in the same block */
function endOf(step: Step, before?: Step): End {
  const { at, bytes, decoded, kind } = step
  const { rd, rs1, imm } = decoded.operands
  const edge = (to: number): Edge => ({ at: to, block: undefined })
  switch (kind) {
    case 'branch':
      return { kind, step, taken: edge(at + imm), next: edge(at + bytes) }
    case 'jump':
      return rd === 0
        ? { kind, step, to: edge(at + imm) }
        : { kind: 'call', step, target: at + imm, next: edge(at + bytes) }
    case 'jumpRegister':
      return rd === 0
        ? { kind: 'indirect', step, isReturn: LINK.has(rs1) }
        : { kind: 'call', step, target: farTarget(step, before), next: edge(at + bytes) }
    case 'step':
      return { kind, step, next: edge(at + bytes) }
    default:
      return { kind: 'leave', at }
  }
}
