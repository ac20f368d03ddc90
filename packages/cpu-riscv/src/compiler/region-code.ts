import { FETCH_TLB_ENTRIES, HART_AREA, LAYOUT, SLOT_BYTES, TLB_BANK_BYTES, TLB_ENTRY_BYTES } from '../hart/layout.ts'
import { SLOT, SPECIAL_HANDLER } from '../interpreter/slots.ts'
import { state } from '../interpreter/state-code.ts'
import { f64, i32, i64, select } from '../wasm/expr.ts'
import type { FunctionBody, I32, I64, Label, Local } from '../wasm/function-body.ts'
import { type AccessGroup, groupAccesses } from './access-groups.ts'
import { type ControlFlow, controlFlow, type Node } from './control-flow.ts'
import { LEAVE } from './leave.ts'
import { lookAhead } from './page-run-code.ts'
import { findPageRun, type PageRun, withOwnLoop } from './page-runs.ts'
import { type Block, type Edge, edgesOf, type Region, type Step } from './region.ts'
import { type RegionContext, RegionEmit } from './region-emit.ts'
import { F, planRegisters, type RegisterPlan, type RegisterSet, reloads } from './registers.ts'

/** Guest calls that are calls of the host's stack, one within the other. */
const MAX_DEPTH = 150
const PAGE = 4096
/** A way out as one constant: at / 2, instructions done since the block began, LEAVE, and whether to interpret one. */
const DONE_BITS = 9
const WHY_BITS = 4
/** Instructions that may be left to count: a way out has room for {@link DONE_BITS}, and a block may add some 200. */
const MAX_UNCOUNTED = 250
/** Bytes on either side that are left for `at`. */
const OUT_REACH = 2 ** (32 - DONE_BITS - WHY_BITS - 1)

/** Rounds of a loop before it looks ahead again, after it did so in vain. */
const PATIENCE = 12

const NO_GROUPS: ReadonlyMap<Step, AccessGroup> = new Map()
const NO_ADDENDS: ReadonlyMap<Step, Local<'i32'>> = new Map()

/** What a region needs to know besides its code. Indices are those of the module that the function is in. */
export interface RegionEnvironment {
  readonly hartBase: number
  readonly fusesMultiplyAdd: boolean
  /** The MMU_BANK that loads and stores of this region go through; undefined: the one in force. */
  readonly dataBank: number | undefined
  /** Whether one look into the TLB may be for several accesses. */
  readonly groups: boolean
  /** Memory offset of the slot that the region begins at. */
  readonly slot: number
  /** (pc i64, budget i32, depth i32) -> (pc i64, budget i32) */
  readonly regionType: number
  /** The interpreter's `step`: (pc i64, budget i32) -> (pc i64, budget i32) */
  readonly step: number
  /** (address of the page i64, slots i32) -> i32: does the page lie there? Asked when the fetch TLB does not know. */
  readonly confirmPage: number
}

/** Where a page of the region has its decoded slots. `delta`: pages from the entry's. */
export interface RegionPage {
  readonly delta: number
  readonly slots: number
}

/**
 * Writes the function of a region: `(pc, budget, depth) -> (pc, budget)`. It returns where to go on. An even pc is the next
 * instruction; an odd one says that the interpreter has to run the instruction there. All registers are in memory when a
 * region is entered and when it is left, budget counts every instruction.
 *
 * A guest's call is a call of the callee's region, which returns to here if the guest did; anything else it returns is
 * returned on. So the host's stack only predicts, and may be dropped at any time.
 */
export function writeRegion(
  body: FunctionBody,
  region: Region,
  entryAt: number,
  pages: readonly RegionPage[],
  environment: RegionEnvironment,
): void {
  new RegionWriter(body, region, pages, environment).write(entryAt)
}

/**
 * The code of a loop that looks ahead is written twice, so what follows it is written once, outside of both: as a merge that
 * belongs to the loop's first block.
 */
function exitsToHeader(nodes: readonly Node[], header: Node): void {
  for (const node of nodes) {
    const exits = node.children.filter((child) => !nodes.includes(child))
    for (const exit of exits) exit.isMerge = true
    if (node === header) continue
    header.children.push(...exits)
    node.children.splice(0, Infinity, ...node.children.filter((child) => nodes.includes(child)))
  }
}

/** A page run while its loop is written. */
interface PageRunCode {
  readonly header: Node
  /** Of the loop that makes no checks. */
  readonly label: Label
  /** Where checks are made. */
  readonly otherwise: Label
  readonly limit: Local<'i32'>
  readonly addends: ReadonlyMap<Step, Local<'i32'>>
}

class RegionWriter implements RegionContext {
  readonly body: FunctionBody
  readonly hartBase: number
  readonly fusesMultiplyAdd: boolean
  readonly dataBank: number | undefined
  readonly #env: RegionEnvironment
  readonly #state: ReturnType<typeof state>
  readonly #pages: readonly RegionPage[]
  readonly #flow: ControlFlow
  readonly #plan: RegisterPlan
  readonly #emit: RegionEmit
  readonly #pc: Local<'i64'>
  readonly #budget: Local<'i32'>
  readonly #depth: Local<'i32'>
  /** Address of the page that the entry lies in. */
  readonly #base: Local<'i64'>
  /** The way out that was taken, see {@link DONE_BITS}. */
  readonly #out: Local<'i32'>
  /**
   * What memory said that made the region give up. Its only use is that there is one: a word that nothing but a comparison
   * reads, V8 reads twice, as the comparison's operand and once more for nothing.
   */
  readonly #seen: Local<'i64'>
  readonly #x: Local<'i64'>[] = []
  readonly #f: Local<'f64'>[] = []
  /** By dispatch block: the entrance that was chosen. */
  readonly #choices = new Map<Block, Local<'i32'>>()
  /** Labels of the structured code around the current point. */
  readonly #loops = new Map<Node, Label>()
  readonly #merges = new Map<Node, Label>()
  readonly #ways = new Map<Node | undefined, Label>()
  /** Loops that may look ahead; `patience`: rounds until they do. */
  readonly #runs = new Map<Node, { readonly run: PageRun; readonly patience: Local<'i32'> }>()
  /** The run that is being written: its loop, which goes on while the budget is above `limit`, and what its accesses need. */
  #run: PageRunCode | undefined
  #node!: Node
  #step: Step | undefined
  #done = 0

  constructor(body: FunctionBody, region: Region, pages: readonly RegionPage[], environment: RegionEnvironment) {
    this.body = body
    this.hartBase = environment.hartBase
    this.fusesMultiplyAdd = environment.fusesMultiplyAdd
    this.dataBank = environment.dataBank
    this.#env = environment
    this.#state = state(environment.hartBase)
    this.#pages = pages
    this.#flow = controlFlow(withOwnLoop(region))
    this.#plan = planRegisters(this.#flow)
    this.#pc = body.parameter(0, 'i64')
    this.#budget = body.parameter(1, 'i32')
    this.#depth = body.parameter(2, 'i32')
    this.#base = body.local('i64')
    this.#out = body.local('i32')
    this.#seen = body.local('i64')
    for (const register of this.#plan.used) {
      if (register < F) this.#x[register] = body.local('i64')
      else this.#f[register - F] = body.local('f64')
    }
    for (const { block } of this.#flow.nodes) {
      if (block.end.kind === 'dispatch') this.#choices.set(block, body.local('i32'))
    }
    for (const node of this.#flow.nodes) {
      const run = findPageRun(node, this.#flow)
      if (!run) continue
      this.#runs.set(node, { run, patience: body.local('i32') })
      exitsToHeader(
        run.blocks.map((block) => this.#flow.nodeOf(block)),
        node,
      )
    }
    this.#emit = new RegionEmit(this)
  }

  x(register: number): Local<'i64'> {
    return this.#x[register]
  }
  f(register: number): Local<'f64'> {
    return this.#f[register]
  }
  wrote(register: number): void {
    if (!this.#node.loop) this.#save(register)
  }
  address(at: number): I64 {
    return i64.add(this.#base.get, i64.const(at))
  }
  giveUp(condition: I32, why: number, tag?: I64): void {
    this.body.ifRarely(condition, () => {
      if (tag) this.body.set(this.#seen, tag)
      this.#leave(this.#step!.at, why, true)
    })
  }

  write(entryAt: number): void {
    const { body } = this
    body.set(this.#base, i64.sub(this.#pc.get, i64.const(entryAt)))
    if (this.dataBank !== undefined) this.#checkBank(this.dataBank, entryAt)
    for (const page of this.#pages) if (page.delta !== 0) this.#checkPage(page, entryAt)
    const [entry] = this.#flow.nodes
    this.#restore(this.#plan.live(entry))
    const loops = this.#flow.nodes.filter((node) => node.isLoop)
    body.block((out) => {
      this.#ways.set(undefined, out)
      const nest = (index: number): void => {
        if (index === loops.length) {
          this.#tree(entry)
          body.unreachable()
          return
        }
        const dirty = this.#plan.dirtyInLoop(loops[index])
        body.block((label) => {
          this.#ways.set(loops[index], label)
          nest(index + 1)
        })
        this.#saveAll(dirty)
        body.br(out)
      }
      nest(0)
    })
    this.#wayOut()
  }

  /** Goes on only with the translations that the region was made for: who shares its page with U-mode has others. */
  #checkBank(bank: number, entryAt: number): void {
    const expected = this.hartBase + HART_AREA.readTlb + bank * TLB_BANK_BYTES
    this.body.ifRarely(i32.ne(this.#state.get32(LAYOUT.readTlb32), i32.const(expected)), () =>
      this.#refuseEntry(entryAt),
    )
  }

  #refuseEntry(entryAt: number): void {
    this.#count(i32.const(LEAVE.page))
    i64.or(this.address(entryAt), i64.const(1))(this.body)
    this.body.return(this.#budget.get)
  }

  /** Goes on at the page's place only if that is where the region was made from. */
  #checkPage({ delta, slots }: RegionPage, entryAt: number): void {
    const { body } = this
    body.scope(() => {
      const page = body.hold('i64', this.address(delta * PAGE))
      const index = i32.and(
        i32.shr_u(i32.wrap(page), i32.const(8)),
        i32.const((FETCH_TLB_ENTRIES - 1) * TLB_ENTRY_BYTES),
      )
      const entry = body.hold('i32', i32.add(index, this.#state.get32(LAYOUT.fetchTlb32)))
      const known = i32.and(i64.eq(i64.load(entry), page), i32.eq(i32.load(entry, 8), i32.const(slots)))
      body.ifRarely(i32.eqz(known), () => {
        const confirmed: I32 = (b) => b.call(this.#env.confirmPage, [page, i32.const(slots)])
        body.ifRarely(i32.eqz(confirmed), () => this.#refuseEntry(entryAt))
      })
    })
  }

  // Structured control flow.

  /** @param done instructions on the way here that are not counted yet */
  #tree(node: Node, done = 0): void {
    const merges = node.children.filter((child) => child.isMerge).sort((a, b) => a.index - b.index)
    if (!node.isLoop) {
      this.#within(node, merges, done)
      return
    }
    this.#retire(done)
    const run = this.#runs.get(node)
    if (run) this.body.set(run.patience, i32.const(0))
    this.body.loop((label) => {
      this.#loops.set(node, label)
      this.#within(node, merges, 0)
    })
  }

  /** The node's own code, inside of one block for each merge that it dominates; a merge's code follows its block. */
  #within(node: Node, merges: readonly Node[], done: number): void {
    const last = merges.at(-1)
    if (!last) {
      const run = this.#runs.get(node)
      if (run) this.#lookAhead(node, run.run, run.patience)
      this.#block(node, done)
      return
    }
    this.body.block((label) => {
      this.#merges.set(last, label)
      this.#within(node, merges.slice(0, -1), done)
    })
    this.#tree(last)
  }

  /** As many rounds of a loop as its accesses stay in their pages: the loop's code once more, without looks into the TLB. */
  #lookAhead(node: Node, run: PageRun, patience: Local<'i32'>): void {
    const { body } = this
    body.scope(() => {
      const limit = body.local('i32')
      body.block((otherwise) => {
        body.if(patience.get, () => {
          body.set(patience, i32.sub(patience.get, i32.const(1)))
          body.br(otherwise)
        })
        body.set(patience, i32.const(PATIENCE))
        const addends = lookAhead(this.#emit, run, limit, otherwise)
        body.set(patience, i32.const(0))
        const instructions = i32.mul(limit.get, i32.const(run.instructions))
        body.set(limit, i32.sub(this.#budget.get, instructions))
        body.set(limit, select(limit.get, i32.const(0), i32.gt_s(limit.get, i32.const(0))))
        body.loop((label) => {
          this.#run = { header: node, label, otherwise, limit, addends }
          this.#block(node, 0)
          this.#run = undefined
        })
      })
    })
  }

  #block(node: Node, done: number): void {
    const { body } = this
    const { steps, end } = node.block
    this.#node = node
    this.#done = done
    body.scope(() => {
      this.#emit.beginBlock(this.#env.groups ? groupAccesses(steps) : NO_GROUPS, this.#run?.addends ?? NO_ADDENDS)
      for (const step of steps) this.#write(step)
    })
    switch (end.kind) {
      case 'branch':
        this.#write(end.step)
        this.#followEither(node, this.#emit.condition!, end.taken, end.next)
        return
      case 'jump':
        if (end.step) this.#write(end.step)
        this.#follow(node, end.to, this.#done)
        return
      case 'call':
        this.#call(node, end.step, end.target, end.next)
        return
      case 'step':
        this.#retire(this.#done)
        this.#saveAll(this.#plan.dirtyAtEnd(node))
        body.call(this.#env.step, [this.address(end.step.at), this.#budget.get])
        this.#goOnIfAt(node, end.next)
        return
      case 'indirect':
        this.#indirect(node, end.step, end.isReturn)
        return
      case 'switch':
        this.#switch(node, end.step, end.targets)
        return
      case 'leave':
        this.#leave(end.at, LEAVE.system, true)
        this.#done = 0
        return
      case 'dispatch':
        this.#dispatch(node, end.choices)
        return
    }
  }

  #write(step: Step): void {
    this.#step = step
    this.body.scope(() => this.#emit.run(step))
    this.#done++
  }

  /** Counts so many instructions. */
  #retire(done: number): void {
    this.#done = 0
    if (done > 0) this.body.set(this.#budget, i32.sub(this.#budget.get, i32.const(done)))
  }

  #followEither(node: Node, condition: I32, taken: Edge, next: Edge): void {
    const done = this.#done
    this.body.if(condition, () => this.#follow(node, taken, done))
    this.#follow(node, next, done)
  }

  /**
   * Goes to where an edge leads.
   * @param done what is not counted yet: a block that is reached only from here goes on counting
   */
  #follow(from: Node, edge: Edge, done: number): void {
    const { body } = this
    const isInline = edge.block && this.#isInline(from, this.#flow.nodeOf(edge.block))
    if (!isInline || done > MAX_UNCOUNTED) {
      this.#retire(done)
      done = 0
    }
    if (!edge.block) {
      this.#saveAll(this.#plan.dirtyAtEnd(from))
      this.#jumpOut(edge.at)
      return
    }
    const to = this.#flow.nodeOf(edge.block)
    if (edge.choice !== undefined) body.set(this.#choice(edge.block), i32.const(edge.choice))
    if (from.loop !== to.loop) this.#saveAll(this.#plan.dirtyAtEnd(from))
    if (this.#run?.header === to) {
      const { label, limit, otherwise } = this.#run
      body.brIf(label, i32.gt_s(this.#budget.get, limit.get))
      body.br(otherwise)
    } else if (to.index <= from.index) {
      const at = edge.choice === undefined ? edge.at : this.#chosen(edge.block, edge.choice)
      // What was dirty is saved already when this goes to an outer loop.
      const way = from.loop === to.loop ? from.loop : undefined
      this.#poll(() => this.#leaveBy(way, at, LEAVE.poll, false))
      body.br(this.#loops.get(to)!)
    } else if (to.isMerge) body.br(this.#merges.get(to)!)
    else this.#tree(to, done)
  }

  /** Leaves when the budget is used up or someone asks for something. */
  #poll(leave: () => void): void {
    const { body } = this
    body.scope(() => {
      const request = body.hold('i32', this.#state.get32(LAYOUT.request32))
      body.ifRarely(i32.le_s(this.#budget.get, request), () => {
        body.set(this.#seen, i64.extend_u(request))
        leave()
      })
    })
  }

  /** Is a block written right where its only predecessor goes to it? */
  #isInline(from: Node, to: Node): boolean {
    return to.index > from.index && !to.isMerge
  }

  #chosen(block: Block, choice: number): number {
    return edgesOf(block.end)[choice].at
  }

  #choice(block: Block): Local<'i32'> {
    return this.#choices.get(block)!
  }

  #dispatch(node: Node, choices: readonly Edge[]): void {
    const { body } = this
    const nest = (index: number, labels: readonly Label[]): void => {
      if (index < 0) {
        body.brTable(labels, this.#choice(node.block).get)
        return
      }
      body.block((label) => nest(index - 1, [label, ...labels]))
      this.#follow(node, choices[index], 0)
    }
    nest(choices.length - 1, [])
  }

  // Ways out.

  #leave(at: number, why: number, interpret: boolean): void {
    this.#leaveBy(this.#node.loop, at, why, interpret)
  }

  /** @param way the loop whose dirty registers have to be saved */
  #leaveBy(way: Node | undefined, at: number, why: number, interpret: boolean): void {
    if (at < -OUT_REACH || at >= OUT_REACH) throw new Error(`a way out at ${at} is too far`)
    const packed = ((((at >> 1) << DONE_BITS) | this.#done) << (WHY_BITS + 1)) | (why << 1) | (interpret ? 1 : 0)
    this.body.set(this.#out, i32.const(packed))
    this.body.br(this.#ways.get(way)!)
  }

  #wayOut(): void {
    const { body } = this
    const out = this.#out.get
    body.scope(() => {
      const why = body.hold('i32', i32.and(i32.shr_u(out, i32.const(1)), i32.const((1 << WHY_BITS) - 1)))
      this.#count(why)
      const slot = this.#state.set32(LAYOUT.groupSlot32, i32.const(this.#env.slot))
      body.put(this.#state.set(LAYOUT.gaveUpAt, this.#seen.get))
      if (this.#env.groups) body.if(i32.eq(why, i32.const(LEAVE.group)), () => body.put(slot))
    })
    const done = i32.and(i32.shr_u(out, i32.const(WHY_BITS + 1)), i32.const((1 << DONE_BITS) - 1))
    const half = i64.extend_s(i32.shr_s(out, i32.const(WHY_BITS + 1 + DONE_BITS)))
    const pc = i64.add(this.#base.get, i64.shl(half, i64.const(1)))
    i64.or(pc, i64.extend_u(i32.and(out, i32.const(1))))(body)
    i32.sub(this.#budget.get, done)(body)
  }

  #count(why: I32): void {
    this.body.scope(() => {
      const at = this.body.hold('i32', i32.shl(why, i32.const(3)))
      const counter = this.hartBase + LAYOUT.leaves
      this.body.put(i64.store(at, i64.add(i64.load(at, counter), i64.const(1)), counter))
    })
  }

  #return(pc: I64): void {
    pc(this.body)
    this.body.return(this.#budget.get)
  }

  /** Registers are saved: goes to another region, or returns to have `at` interpreted. */
  #jumpOut(at: number): void {
    const target = this.address(at)
    this.body.scope(() => {
      const number = this.#regionAt(at, target, () => {
        this.#count(i32.const(LEAVE.edge))
        this.#return(target)
      })
      this.body.returnCallIndirect(this.#env.regionType, [target, this.#budget.get, this.#depth.get], number)
    })
  }

  /**
   * The number of the region that begins at an address. `none` has to return; so it does when the budget is used up.
   * @param at if the address is known, where that is
   */
  #regionAt(at: number | undefined, target: I64, none: () => void): I32 {
    const { body } = this
    const page = at === undefined ? undefined : this.#pages.find(({ delta }) => delta === Math.floor(at / PAGE))
    body.ifRarely(i32.le_s(this.#budget.get, i32.const(0)), () => this.#return(target))
    let slot: I32
    if (page) slot = i32.const(page.slots + ((at! & (PAGE - 2)) / 2) * SLOT_BYTES)
    else {
      const low = body.hold('i32', i32.wrap(target))
      const index = i32.and(i32.shr_u(low, i32.const(8)), i32.const((FETCH_TLB_ENTRIES - 1) * TLB_ENTRY_BYTES))
      const entry = body.hold('i32', i32.add(index, this.#state.get32(LAYOUT.fetchTlb32)))
      body.ifRarely(i64.ne(i64.and(target, i64.const(-PAGE)), i64.load(entry)), none)
      slot = i32.add(i32.load(entry, 8), i32.shl(i32.and(low, i32.const(PAGE - 2)), i32.const(3)))
    }
    const word = body.hold('i32', i32.load(slot))
    body.ifRarely(i32.ne(i32.and(word, i32.const(0xffff)), i32.const(SPECIAL_HANDLER.compiled)), none)
    if (SLOT.heat16 !== 2) throw new Error('the number of a region is not where its slot has it')
    return i32.shr_u(word, i32.const(16))
  }

  // Calls.

  #call(node: Node, step: Step, target: number | undefined, next: Edge): void {
    const { body } = this
    body.scope(() => {
      this.#step = step
      this.#emit.run(step)
      const to = target === undefined ? body.hold('i64', this.#emit.target!) : this.address(target)
      this.#retire(this.#done + 1)
      this.#saveAll(this.#plan.dirtyAtEnd(node))
      body.ifRarely(i32.ge_u(this.#depth.get, i32.const(MAX_DEPTH)), () => this.#return(to))
      const number = this.#regionAt(target, to, () => {
        this.#count(i32.const(LEAVE.edge))
        this.#return(to)
      })
      body.callIndirect(this.#env.regionType, [to, this.#budget.get, i32.add(this.#depth.get, i32.const(1))], number)
    })
    this.#goOnIfAt(node, next)
  }

  /** On the stack: pc and budget. Goes on in the region if pc is the next instruction's, else returns both. */
  #goOnIfAt(node: Node, next: Edge): void {
    const { body } = this
    if (!reloads(node)) throw new Error('locals would go stale')
    body.pop(this.#budget)
    body.pop(this.#pc)
    body.ifRarely(i64.ne(this.#pc.get, this.address(next.at)), () => this.#return(this.#pc.get))
    if (!next.block) {
      this.#jumpOut(next.at)
      return
    }
    const to = this.#flow.nodeOf(next.block)
    this.#restore(this.#plan.live(to))
    this.#followClean(node, next, to)
  }

  /** As {@link #follow}, when nothing is dirty. */
  #followClean(from: Node, edge: Edge, to: Node): void {
    const { body } = this
    if (edge.choice !== undefined) body.set(this.#choice(edge.block!), i32.const(edge.choice))
    if (to.index <= from.index) {
      const at = edge.choice === undefined ? edge.at : this.#chosen(edge.block!, edge.choice)
      this.#poll(() => this.#leaveBy(undefined, at, LEAVE.poll, false))
      body.br(this.#loops.get(to)!)
    } else if (to.isMerge) body.br(this.#merges.get(to)!)
    else this.#tree(to)
  }

  #indirect(node: Node, step: Step, isReturn: boolean): void {
    const { body } = this
    body.scope(() => {
      this.#step = step
      this.#emit.run(step)
      const target = body.hold('i64', this.#emit.target!)
      this.#retire(this.#done + 1)
      if (!isReturn) {
        this.#goElsewhere(node, target)
        return
      }
      this.#saveAll(this.#plan.dirtyAtEnd(node))
      this.#return(target)
    })
  }

  /** To whatever region begins at an address. */
  #goElsewhere(node: Node, target: I64): void {
    const { body } = this
    this.#saveAll(this.#plan.dirtyAtEnd(node))
    const number = this.#regionAt(undefined, target, () => {
      this.#count(i32.const(LEAVE.edge))
      this.#return(target)
    })
    body.returnCallIndirect(this.#env.regionType, [target, this.#budget.get, this.#depth.get], number)
  }

  /** A jump through a register: by a table of the distances to the targets that are part of the region. */
  #switch(node: Node, step: Step, edges: readonly Edge[]): void {
    const { body } = this
    const targets = edges.filter((edge) => edge.block)
    if (targets.length === 0) {
      this.#indirect(node, step, false)
      return
    }
    body.scope(() => {
      this.#step = step
      this.#emit.run(step)
      const target = body.hold('i64', this.#emit.target!)
      this.#retire(this.#done + 1)
      const least = Math.min(...targets.map(({ at }) => at))
      const most = Math.max(...targets.map(({ at }) => at))
      const distance = body.hold('i64', i64.sub(target, this.address(least)))
      const nest = (index: number, labels: readonly Label[]): void => {
        if (index < 0) {
          const [otherwise] = labels
          body.brIf(otherwise, i64.gt_u(distance, i64.const(most - least)))
          const table = new Array<Label>((most - least) / 2 + 2).fill(otherwise)
          for (const [i, { at }] of targets.entries()) table[(at - least) / 2] = labels[i + 1]
          body.brTable(table, i32.shr_u(i32.wrap(distance), i32.const(1)))
          return
        }
        body.block((label) => nest(index - 1, [labels[0], label, ...labels.slice(1)]))
        this.#follow(node, targets[index], 0)
      }
      body.block((otherwise) => nest(targets.length - 1, [otherwise]))
      this.#goElsewhere(node, target)
    })
  }

  // Registers.

  #save(register: number): void {
    const { body } = this
    const at = i32.const(0)
    if (register < F) body.put(i64.store(at, this.#x[register].get, this.hartBase + LAYOUT.x + register * 8))
    else body.put(f64.store(at, this.#f[register - F].get, this.hartBase + LAYOUT.f + (register - F) * 8))
  }

  #saveAll(registers: RegisterSet): void {
    for (const register of registers) this.#save(register)
  }

  #restore(registers: RegisterSet): void {
    const { body } = this
    const at = i32.const(0)
    for (const register of registers) {
      if (register < F) body.set(this.#x[register], i64.load(at, this.hartBase + LAYOUT.x + register * 8))
      else body.set(this.#f[register - F], f64.load(at, this.hartBase + LAYOUT.f + (register - F) * 8))
    }
  }
}
