/**
 * Loops that walk through memory: without branches inside, whose loads and stores go on by the same distance in every round.
 * Where they lie is known for as many rounds as they stay in their pages, so that one look into the TLB does for all of these.
 */
import type { ControlFlow, Node } from './control-flow.ts'
import { type Block, type Edge, type End, edgesOf, type Region, type Step } from './region.ts'
import { ownSteps, usesOf } from './registers.ts'
import { rowAccess } from './row-kind.ts'

/** Bytes from the first to the last access of a window at most. */
const MAX_SPAN = 1024
const MAX_WINDOWS = 6
const MAX_BLOCKS = 4
/** Indices are multiplied by powers of two up to this one. */
const MAX_SHIFT = 11
/** Bytes per round at most: of longer steps too few fit into a page. */
export const MAX_STRIDE = 1024

/**
 * A sum of registers, as they are when a round begins, each so many times, and a constant. Wraps around as the guest's
 * arithmetic of 64 bits does.
 */
export interface Linear {
  /** By register; none is 0. */
  readonly terms: ReadonlyMap<number, bigint>
  readonly constant: bigint
}

/** Accesses of one kind that keep their distances from each other. */
export interface AccessWindow {
  readonly write: boolean
  /** The address of the lowest byte, when a round begins. */
  first: Linear
  /** Bytes from there to the last byte. */
  span: number
  /** From one round to the next. A constant, or a register sum that does not change. */
  readonly stride: Linear
  readonly members: Set<Step>
}

/** A sum that changes by the same in every round. */
export interface Walk {
  /** In the first round. */
  readonly value: Linear
  readonly stride: Linear
  /** What has to be a number of 31 bits, in every round, for the stride to be right. */
  readonly needs: readonly Linear[]
}

export interface PageRun {
  /** The loop's, in the order in which they run. */
  readonly blocks: readonly Block[]
  /** Of one round. */
  readonly instructions: number
  readonly windows: readonly AccessWindow[]
  /** What has to be a number of 31 bits in every round, so that arithmetic of 32 bits is that of 64. */
  readonly small: readonly Walk[]
}

const ZERO: Linear = { terms: new Map(), constant: 0n }
const constant = (value: number): Linear => ({ terms: new Map(), constant: BigInt(value) })
const register = (number: number): Linear => ({ terms: new Map([[number, 1n]]), constant: 0n })

function plus(a: Linear, b: Linear, times = 1n): Linear {
  const terms = new Map(a.terms)
  for (const [number, count] of b.terms) {
    const sum = BigInt.asIntN(64, (terms.get(number) ?? 0n) + count * times)
    if (sum === 0n) terms.delete(number)
    else terms.set(number, sum)
  }
  return { terms, constant: BigInt.asIntN(64, a.constant + b.constant * times) }
}

const same = (a: Linear, b: Linear): boolean => {
  const difference = plus(a, b, -1n)
  return difference.terms.size === 0 && difference.constant === 0n
}
export const isConstant = ({ terms }: Linear): boolean => terms.size === 0

/** What a register holds: a sum, or one in the upper half of its bits. */
interface Value {
  readonly sum: Linear
  /** It has been shifted left by 32. */
  readonly raised?: true
  /** What has to be a number of 31 bits for this to be right. */
  readonly needs: readonly Linear[]
}

/** Follows the values of registers through one round. */
class Round {
  readonly #values = new Map<number, Value | undefined>()

  /** undefined: not a sum of this kind. */
  get(number: number): Value | undefined {
    if (number === 0) return { sum: ZERO, needs: [] }
    return this.#values.has(number) ? this.#values.get(number) : { sum: register(number), needs: [] }
  }

  step(step: Step): void {
    const { writes } = usesOf(step)
    if (writes.length === 0) return
    const result = this.#result(step)
    for (const number of writes) this.#values.set(number, result)
  }

  #result({ decoded: { row, operands } }: Step): Value | undefined {
    const { imm } = operands
    const a = this.get(operands.rs1)
    if (!a) return undefined
    if (a.raised) {
      // Two shifts make an unsigned number of 32 bits 64 wide, and perhaps multiply it.
      if (row.name !== 'srli' || imm > 32 || imm < 32 - MAX_SHIFT) return undefined
      return { sum: plus(ZERO, a.sum, 1n << BigInt(32 - imm)), needs: [...a.needs, a.sum] }
    }
    const sums = (times: bigint, narrow: boolean): Value | undefined => {
      const b = this.get(operands.rs2)
      if (!b || b.raised) return undefined
      const sum = plus(a.sum, b.sum, times)
      return { sum, needs: [...a.needs, ...b.needs, ...(narrow ? [sum] : [])] }
    }
    switch (row.name) {
      case 'addi':
        return { sum: plus(a.sum, constant(imm)), needs: a.needs }
      case 'addiw': {
        const sum = plus(a.sum, constant(imm))
        return { sum, needs: [...a.needs, sum] }
      }
      case 'add':
      case 'addw':
        return sums(1n, row.name === 'addw')
      case 'sub':
      case 'subw':
        return sums(-1n, row.name === 'subw')
      case 'slli':
        if (imm === 32) return { ...a, raised: true }
        return imm > MAX_SHIFT ? undefined : { sum: plus(ZERO, a.sum, 1n << BigInt(imm)), needs: a.needs }
      case 'lui':
        return { sum: constant(imm), needs: [] }
      default:
        return undefined
    }
  }
}

/** How a loop can do without looking into the TLB, if all of it runs in every round and it has such accesses. */
export function findPageRun(header: Node, { nodeOf }: ControlFlow): PageRun | undefined {
  if (header.loop !== header) return undefined
  const blocks = shortestWayBack(header.block, (block) => {
    const { loop, predecessors } = nodeOf(block)
    return loop === header && predecessors.length === 1
  })
  return blocks && planPageRun(blocks)
}

/**
 * Regions often begin in the middle of loops within loops, because the innermost one is hot first. Such a loop would not stand by
 * itself; so it gets its blocks a second time, for the region to begin with, if it can look ahead.
 */
export function withOwnLoop(region: Region): Region {
  const { entry, blocks } = region
  const way = shortestWayBack(entry, () => true)
  const isInside = ({ block }: Edge): boolean => block !== undefined && way!.includes(block)
  if (!way || !planPageRun(way)) return region
  if (!blocks.some((block) => !way.includes(block) && edgesOf(block.end).some(isInside))) return region
  const copies = new Map(way.map((block) => [block, { ...block, end: copyOf(block.end) }]))
  for (const { end } of copies.values()) {
    for (const edge of edgesOf(end)) if (isInside(edge)) edge.block = copies.get(edge.block!)
  }
  return { ...region, entry: copies.get(entry)!, blocks: [...copies.values(), ...blocks] }
}

/** With edges of its own. */
function copyOf(end: End): End {
  if (end.kind === 'branch') return { ...end, taken: { ...end.taken }, next: { ...end.next } }
  if (end.kind === 'jump') return { ...end, to: { ...end.to } }
  throw new Error(`a loop without branches inside has no ${end.kind}`)
}

/** @param blocks of a loop, in the order in which every round runs them */
function planPageRun(blocks: readonly Block[]): PageRun | undefined {
  const steps = blocks.flatMap((block) => ownSteps(block))
  // A write of sstatus may change what loads and stores go through.
  if (steps.some(({ decoded }) => decoded.row.extension === 'zicsr')) return undefined

  const round = new Round()
  const written = new Set<number>()
  const accesses: { step: Step; write: boolean; bytes: number; at: Linear; needs: readonly Linear[] }[] = []
  for (const step of steps) {
    const access = rowAccess(step.decoded.row)
    const base = access && round.get(step.decoded.operands.rs1)
    if (base && !base.raised) {
      accesses.push({ step, ...access, at: plus(base.sum, constant(step.decoded.operands.imm)), needs: base.needs })
    }
    round.step(step)
    for (const number of usesOf(step).writes) written.add(number)
  }
  const walk = (value: Linear): Walk | undefined => strideOf(value, round, written)
  const windows: AccessWindow[] = []
  const small: Walk[] = []
  for (const { step, write, bytes, at, needs } of accesses) {
    const way = walk(at)
    if (!way || isTooLong(way.stride)) continue
    const needed = allNeeds([...needs, ...way.needs], walk)
    if (!needed) continue
    if (!windows.some((window) => join(window, step, write, bytes, at))) {
      if (windows.length === MAX_WINDOWS) continue
      windows.push({ write, first: at, span: bytes - 1, stride: way.stride, members: new Set([step]) })
    }
    for (const need of needed) if (!small.some(({ value }) => same(value, need.value))) small.push(need)
  }
  return windows.length > 0 ? { blocks, instructions: steps.length, windows, small } : undefined
}

/**
 * The shortest way from a block back to it, by branches and jumps. Other ways, also those through an outer loop that begins
 * at the same block, leave the rounds.
 * @param accept which other blocks it may pass
 */
function shortestWayBack(header: Block, accept: (block: Block) => boolean): readonly Block[] | undefined {
  let ways: (readonly Block[])[] = [[header]]
  for (let length = 1; length <= MAX_BLOCKS && ways.length > 0; length++) {
    const longer: (readonly Block[])[] = []
    for (const way of ways) {
      const { end } = way.at(-1)!
      if (end.kind !== 'branch' && end.kind !== 'jump') continue
      for (const { block, choice } of edgesOf(end)) {
        if (!block || choice !== undefined) continue
        if (block === header) return way
        if (!way.includes(block) && accept(block)) longer.push([...way, block])
      }
    }
    ways = longer
  }
  return undefined
}

/** What numbers of 31 bits need to stay such, too. @returns undefined: one changes in no known way, or goes down */
function allNeeds(first: readonly Linear[], walk: (value: Linear) => Walk | undefined): readonly Walk[] | undefined {
  const needed: Walk[] = []
  const values = [...first]
  for (const value of values) {
    if (needed.some((need) => same(need.value, value))) continue
    const need = walk(value)
    if (!need || (isConstant(need.stride) && need.stride.constant < 0n)) return undefined
    needed.push(need)
    values.push(...need.needs)
  }
  return needed
}

const isTooLong = (stride: Linear): boolean =>
  isConstant(stride) && (stride.constant > MAX_STRIDE || stride.constant < -MAX_STRIDE)

/** How a sum changes from one round to the next, if it always changes alike. @param written by the round */
function strideOf(value: Linear, round: Round, written: ReadonlySet<number>): Walk | undefined {
  let stride = ZERO
  const needs: Linear[] = []
  for (const [number, times] of value.terms) {
    if (!written.has(number)) continue
    const after = round.get(number)
    if (!after || after.raised) return undefined
    const gain = plus(after.sum, register(number), -1n)
    if ([...gain.terms.keys()].some((other) => written.has(other))) return undefined
    stride = plus(stride, gain, times)
    needs.push(...after.needs)
  }
  return { value, stride, needs }
}

function join(window: AccessWindow, step: Step, write: boolean, bytes: number, at: Linear): boolean {
  const distance = plus(at, window.first, -1n)
  if (window.write !== write || !isConstant(distance)) return false
  const from = Number(distance.constant)
  const low = Math.min(0, from)
  const high = Math.max(window.span, from + bytes - 1)
  if (high - low > MAX_SPAN) return false
  if (low < 0) window.first = at
  window.span = high - low
  window.members.add(step)
  return true
}
