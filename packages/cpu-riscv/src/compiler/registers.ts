/**
 * Which guest registers a region keeps in locals, and where it writes them back. Outside of loops every write goes to
 * memory at once. In a loop it stays in the local, and what the loop writes (its dirty set) goes to memory where the loop is
 * left: that is never more than one store per register and way out.
 */
import type { ControlFlow, Node } from './control-flow.ts'
import { type Block, edgesOf, type Step } from './region.ts'

/** Numbers of registers: x0 to x31 are 0 to 31, f0 to f31 are 32 to 63. */
export const F = 32
export type RegisterSet = Set<number>

interface Uses {
  readonly reads: readonly number[]
  readonly writes: readonly number[]
}

/** From the operands that the instruction's syntax names; see isa/formats.ts. */
export function usesOf({ decoded }: Step): Uses {
  const { rd, rs1, rs2, rs3 } = decoded.operands
  const reads: number[] = []
  const writes: number[] = []
  for (const letter of decoded.row.format.syntax) {
    if (letter === 's' && rs1 !== 0) reads.push(rs1)
    else if (letter === 't' && rs2 !== 0) reads.push(rs2)
    else if (letter === 'S') reads.push(F + rs1)
    else if (letter === 'T') reads.push(F + rs2)
    else if (letter === 'R') reads.push(F + rs3)
    else if (letter === 'd' && rd !== 0) writes.push(rd)
    else if (letter === 'D') writes.push(F + rd)
  }
  return { reads, writes }
}

/** Does the interpreter, or another region, run between this block and the next? Then locals do not carry over. */
export const reloads = (node: Node): boolean => node.block.end.kind === 'call' || node.block.end.kind === 'step'

/** The steps that the region itself runs: not the one that the interpreter does. */
export const ownSteps = ({ steps, end }: Block): readonly Step[] =>
  end.kind !== 'step' && 'step' in end && end.step ? [...steps, end.step] : steps

export interface RegisterPlan {
  /** All registers that have a local. */
  readonly used: RegisterSet
  /** Registers whose local must be right when a block begins. */
  live(node: Node): RegisterSet
  /** Registers that may differ from memory when a block ends. */
  dirtyAtEnd(node: Node): RegisterSet
  /** Everything that the innermost loop around a block writes: what a way out of the middle of it writes back. */
  dirtyInLoop(loop: Node): RegisterSet
}

export function planRegisters({ nodes, nodeOf }: ControlFlow): RegisterPlan {
  const used: RegisterSet = new Set()
  const written = new Map<Node, RegisterSet>()
  const readFirst = new Map<Node, RegisterSet>()
  const inLoop = new Map<Node, RegisterSet>()
  for (const node of nodes) {
    const writes: RegisterSet = new Set()
    const reads: RegisterSet = new Set()
    for (const step of ownSteps(node.block)) {
      const uses = usesOf(step)
      for (const register of uses.reads) {
        used.add(register)
        if (!writes.has(register)) reads.add(register)
      }
      for (const register of uses.writes) {
        used.add(register)
        writes.add(register)
      }
    }
    written.set(node, writes)
    readFirst.set(node, reads)
    if (!node.loop) continue
    const dirty = inLoop.get(node.loop) ?? new Set()
    for (const register of writes) dirty.add(register)
    inLoop.set(node.loop, dirty)
  }

  const dirty = new Map<Node, RegisterSet>()
  for (const node of nodes) dirty.set(node, new Set(node.loop ? written.get(node) : []))
  for (let changed = true; changed; ) {
    changed = false
    for (const node of nodes) {
      if (!node.loop) continue
      const mine = dirty.get(node)!
      const before = mine.size
      for (const from of node.predecessors) {
        if (from.loop === node.loop && !reloads(from)) for (const register of dirty.get(from)!) mine.add(register)
      }
      if (mine.size !== before) changed = true
    }
  }

  const live = new Map<Node, RegisterSet>()
  for (const node of nodes) {
    const mine = new Set(readFirst.get(node))
    // A way out may write these back at any point of the block.
    for (const register of node.loop ? inLoop.get(node.loop)! : []) mine.add(register)
    live.set(node, mine)
  }
  for (let changed = true; changed; ) {
    changed = false
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = nodes[i]
      if (reloads(node)) continue
      const mine = live.get(node)!
      const before = mine.size
      for (const { block } of edgesOf(node.block.end)) {
        if (!block) continue
        for (const register of live.get(nodeOf(block))!) if (!written.get(node)!.has(register)) mine.add(register)
      }
      if (mine.size !== before) changed = true
    }
  }
  return {
    used,
    live: (node) => live.get(node)!,
    dirtyAtEnd: (node) => dirty.get(node)!,
    dirtyInLoop: (loop) => inLoop.get(loop)!,
  }
}
