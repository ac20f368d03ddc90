import type { HartState } from '../hart/hart-state.ts'
import { COUNTER, PRIV, WORD } from '../hart/hart-state.ts'
import { HART_AREA, LAYOUT, MAX_REGIONS, MMU_BANK, SLOT_BYTES } from '../hart/layout.ts'
import { SLOT, SPECIAL_HANDLER, SPECIAL_HANDLERS } from '../interpreter/slots.ts'
import type { CompiledPages } from '../mmu/code-pages.ts'
import { FunctionBody } from '../wasm/function-body.ts'
import { ModuleBuilder } from '../wasm/module-builder.ts'
import { LEAVE } from './leave.ts'
import { formRegion, type Region } from './region.ts'
import { type RegionPage, writeRegion } from './region-code.ts'

/** Import namespace of the modules. */
const REGION = 'region'
/** Polls that a region waits for others to share a module with. */
const PATIENCE = 20
/** Pages that a region may reach besides its entry's: each is checked whenever it is entered. */
const REACH = 3
const MAX_PAGES = 4
/** Writes to code of a page that make it wait longer before it is compiled again. */
const CHURN_LIMIT = 8
/** A block of a region gets a region of its own after so many times the jumps that others take. */
const INNER_PATIENCE = 16
/** What got less than the threshold divided by so much is no target of a jump table. */
const RARE_SHIFT = 8
/** The low word of a count in LAYOUT.leaves; and so many between two polls are no accident. */
const GROUPS_LEFT = (LAYOUT.leaves + LEAVE.group * 8) >> 2
const MAX_GROUPS_LEFT = 100
/** Jumps that heat16 can count. */
const MAX_PATIENCE = 0xffff
/**
 * What compiled code may cost, estimated: V8 keeps about 56 KiB per module, and both tiers' machine code of its functions.
 * What was dropped may stay until as much again has been made. All harts of a machine together.
 */
const MAX_COST_BYTES = 96 * 2 ** 20
/** What one hart gets in any case: some hundred regions. */
const MIN_COST_BYTES = 8 * 2 ** 20
const MODULE_COST_BYTES = 56 * 2 ** 10
const COST_PER_BYTE = 9

export interface RegionsOptions {
  readonly memory: WebAssembly.Memory
  readonly hart: HartState
  /** Of functions; as many as MAX_REGIONS. */
  readonly table: WebAssembly.Table
  /** The interpreter's export. */
  readonly step: WebAssembly.ExportValue
  /** Of the machine: each compiles for itself. */
  readonly harts: number
  /** Jumps to an instruction that make it hot. */
  readonly threshold: number
  /** Regions of one module at most. */
  readonly batch: number
  /** Whether to compile what has not run yet, too. */
  readonly speculates: boolean
  /** Decodes the instruction at a slot of the page in force. */
  readonly decode: (slot: number) => void
  readonly has: (extension: string) => boolean
  readonly fusesMultiplyAdd: boolean
  /** What the fetch TLB knows of an address. */
  readonly knownCode: (lo: number, hi: number) => { readonly slots: number; readonly mem: number } | undefined
  /** See RegionEnvironment. */
  readonly confirmPage: (address: bigint, slots: number) => boolean
}

/** A region that exists or is about to. */
interface Compiled {
  readonly slot: number
  /** Of its pages: memory offset of the slots, and the bytes of the page that it was made from. */
  readonly pages: readonly { readonly slots: number; readonly code: readonly (readonly [number, number])[] }[]
  /** Its place in the table; 0 before it has one and after it is gone. */
  number: number
  gone: boolean
}

/**
 * The compiled code of one hart. A region is reached only through the slot that it begins at (SPECIAL_HANDLER.compiled), so
 * taking it out of there ends it. Everything here happens between two runs of guest code, when no region is on the stack.
 */
export class Regions implements CompiledPages {
  readonly #options: RegionsOptions
  #view: DataView
  readonly #u16: Uint16Array
  readonly #imports: WebAssembly.Imports
  /** Numbers that are free below {@link #top}. */
  #free: number[] = []
  #top = 1
  readonly #byPage = new Map<number, Set<Compiled>>()
  /** Writes to code, by page. */
  readonly #churn = new Map<number, number>()
  /** Slots that had to wait, for one reason or another, and may be compiled the next time. */
  readonly #waited = new Set<number>()
  /** Slots of regions whose groups of accesses lay across a page boundary again and again. */
  readonly #ungrouped = new Set<number>()
  #groupsLeft = 0
  #pending: { readonly compiled: Compiled; readonly body: FunctionBody }[] = []
  #age = 0
  #cost = 0
  readonly #maxCost: number
  #evicted = false

  constructor(options: RegionsOptions) {
    const { memory, hart, table, step, confirmPage } = options
    this.#options = options
    this.#maxCost = Math.max(MAX_COST_BYTES / options.harts, MIN_COST_BYTES)
    this.#view = new DataView(memory.buffer)
    this.#u16 = new Uint16Array(memory.buffer, hart.base + HART_AREA.entryHandlers, MAX_REGIONS)
    const confirm = (address: bigint, slots: number): number => (confirmPage(address, slots >>> 0) ? 1 : 0)
    this.#imports = { [REGION]: { memory, regions: table, step, confirmPage: confirm } } as WebAssembly.Imports
  }

  /** Guest memory is longer than before: code may lie in what is new. */
  memoryGrew(): void {
    this.#view = new DataView(this.#options.memory.buffer)
  }

  /** The instruction at pc, of the page in force, is hot. */
  hot(): void {
    const { i32 } = this.#options.hart
    const slots = i32[WORD.pageSlots] >>> 0
    const offset = i32[WORD.pc] & 0xffe
    const slot = slots + (offset >> 1) * SLOT_BYTES
    if (this.#pending.some(({ compiled }) => compiled.slot === slot && !compiled.gone)) return
    if ((this.#churn.get(slots) ?? 0) > CHURN_LIMIT && !this.#waited.delete(slot)) {
      this.#waited.add(slot)
      this.#refuse(slot)
      return
    }
    const began = performance.now()
    try {
      this.#form(slot, offset)
    } catch {
      this.#failed()
      this.#refuse(slot)
    }
    this.#options.hart.add(COUNTER.compileMs, performance.now() - began)
    if (this.#pending.length >= this.#options.batch) this.#build()
  }

  /** Called now and then: makes what has waited long enough for others. */
  poll(): void {
    if (this.#pending.length > 0 && ++this.#age > PATIENCE) this.#build()
    const { hart } = this.#options
    const left = hart.i32[GROUPS_LEFT]
    if (left - this.#groupsLeft > MAX_GROUPS_LEFT) this.#ungroup(hart.i32[WORD.groupSlot] >>> 0)
    this.#groupsLeft = left
  }

  /** A region is to be compiled anew, with a look into the TLB for each access. */
  #ungroup(slot: number): void {
    for (const regions of this.#byPage.values()) {
      for (const region of regions) {
        if (region.slot !== slot || region.number === 0) continue
        if (this.#ungrouped.size >= MAX_REGIONS) this.#ungrouped.clear()
        this.#ungrouped.add(slot)
        this.#end(region)
        return
      }
    }
  }

  written(slots: number, offset: number, bytes: number): void {
    const regions = this.#byPage.get(slots)
    if (!regions) return
    for (const region of [...regions]) {
      const page = region.pages.find((p) => p.slots === slots)!
      if (!page.code.some(([start, end]) => start < offset + bytes && offset < end)) continue
      this.#end(region)
      this.#churn.set(slots, (this.#churn.get(slots) ?? 0) + 1)
      this.#options.hart.count(COUNTER.regionsStale)
    }
  }

  dropped(slots: number): void {
    this.#churn.delete(slots)
    for (const region of [...(this.#byPage.get(slots) ?? [])]) {
      this.#end(region)
      this.#options.hart.count(COUNTER.regionsStale)
    }
  }

  /** Ends everything. */
  evict(): void {
    for (const regions of [...this.#byPage.values()]) for (const region of [...regions]) this.#end(region)
    this.#pending = []
    this.#evicted = true
    this.#waited.clear()
    this.#churn.clear()
    this.#cost = 0
    this.#options.hart.count(COUNTER.evictions)
  }

  /** True once after modules were dropped: V8 frees what they cost only when the thread's event loop turns. */
  takeEvicted(): boolean {
    const evicted = this.#evicted
    this.#evicted = false
    return evicted
  }

  #refuse(slot: number): void {
    this.#options.hart.count(COUNTER.regionsRefused)
    this.#cool(slot, MAX_PATIENCE)
  }

  /** It takes so many more jumps to a slot to make it hot. */
  #cool(slot: number, jumps: number): void {
    if (this.#view.getUint16(slot, true) === SPECIAL_HANDLER.compiled) return
    this.#view.setUint16(slot + SLOT.heat16, this.#options.threshold - Math.min(jumps, MAX_PATIENCE), true)
  }

  #failed(): void {
    this.#options.hart.count(COUNTER.regionsFailed)
  }

  #form(slot: number, entryAt: number): void {
    const { hart, has, fusesMultiplyAdd, decode } = this.#options
    const { i32 } = hart
    // The region takes the place of a decoded instruction, which the interpreter still runs when the region gives up.
    if (this.#view.getUint16(slot, true) === SPECIAL_HANDLER.decode) decode(slot)
    if (this.#view.getUint16(slot, true) < SPECIAL_HANDLERS) {
      this.#refuse(slot)
      return
    }
    const vaddrLo = i32[WORD.pageVaddr]
    const vaddrHi = i32[WORD.pageVaddr + 1]
    const found = new Map<number, { readonly slots: number; readonly mem: number } | undefined>()
    const entry = this.#options.knownCode(vaddrLo, vaddrHi)
    // A page that the fetch TLB may not hold has parts that are not executable.
    if (!entry || entry.slots !== i32[WORD.pageSlots] >>> 0) {
      this.#refuse(slot)
      return
    }
    found.set(0, entry)
    const pageAt = (delta: number) => {
      if (found.has(delta)) return found.get(delta)
      if (Math.abs(delta) > REACH || found.size > MAX_PAGES) return undefined
      const number = (vaddrLo >>> 12) + delta
      // A region across a multiple of 4 GiB is not worth the trouble.
      const page = number >= 0 && number < 2 ** 20 ? this.#options.knownCode(number << 12, vaddrHi) : undefined
      found.set(delta, page)
      return page
    }
    const half = (at: number): number | undefined => {
      const page = pageAt(Math.floor(at / 4096))
      return page && this.#view.getUint16(page.mem + (at & 0xfff), true)
    }
    const reached = (at: number): boolean => {
      const page = pageAt(Math.floor(at / 4096))
      if (!page || this.#options.speculates) return page !== undefined
      return this.#view.getUint16(page.slots + ((at & 0xffe) >> 1) * SLOT_BYTES, true) !== SPECIAL_HANDLER.decode
    }
    const often = Math.max(1, this.#options.threshold >> RARE_SHIFT)
    const jumpedTo = (at: number): boolean => {
      if (!reached(at)) return false
      const slot = found.get(Math.floor(at / 4096))!.slots + ((at & 0xffe) >> 1) * SLOT_BYTES
      if (this.#view.getUint16(slot, true) === SPECIAL_HANDLER.compiled) return true
      return this.#view.getUint16(slot + SLOT.heat16, true) >= often
    }
    const region = formRegion({ half, reached, jumpedTo, has, fusesMultiplyAdd }, entryAt)
    if (!region) {
      this.#refuse(slot)
      return
    }
    const pages = pagesOf(region).map((page) => ({ ...page, slots: found.get(page.delta)!.slots }))
    const body = new FunctionBody(3)
    writeRegion(body, region, entryAt, pages as readonly RegionPage[], {
      hartBase: hart.base,
      fusesMultiplyAdd,
      // Programs never change theirs; a kernel opens user memory in the middle of a region.
      dataBank: hart.priv === PRIV.U ? MMU_BANK.U : undefined,
      groups: !this.#ungrouped.has(slot),
      slot,
      regionType: TYPE.region,
      step: FUNCTION.step,
      confirmPage: FUNCTION.confirmPage,
    })
    const compiled: Compiled = { slot, pages, number: 0, gone: false }
    for (const { slots } of pages) {
      let regions = this.#byPage.get(slots)
      if (!regions) this.#byPage.set(slots, (regions = new Set()))
      regions.add(compiled)
    }
    if (this.#pending.length === 0) this.#age = 0
    this.#pending.push({ compiled, body })
    // Its other blocks run as part of it from now on, so that few jumps to them will be interpreted.
    const inner = this.#options.threshold * INNER_PATIENCE
    for (const { at } of region.blocks) {
      const page = found.get(Math.floor(at / 4096))!
      this.#cool(page.slots + ((at & 0xffe) >> 1) * SLOT_BYTES, inner)
    }
    hart.add(COUNTER.regionInstructions, region.instructions)
  }

  /** Makes a module of what is pending and puts its regions where the interpreter meets them. */
  #build(): void {
    const { hart, table } = this.#options
    const began = performance.now()
    const pending = this.#pending.filter(({ compiled }) => !compiled.gone)
    this.#pending = []
    if (pending.length === 0) return
    if (this.#cost > this.#maxCost || this.#top + pending.length - this.#free.length > MAX_REGIONS) {
      this.evict()
      return
    }
    const module = regionModule(pending.map(({ body }) => body))
    let exports: WebAssembly.Exports
    try {
      exports = new WebAssembly.Instance(new WebAssembly.Module(module), this.#imports).exports
    } catch {
      this.#failed()
      for (const { compiled } of pending) {
        this.#end(compiled)
        this.#refuse(compiled.slot)
      }
      return
    }
    this.#cost += MODULE_COST_BYTES + module.length * COST_PER_BYTE
    for (const [index, { compiled }] of pending.entries()) {
      const handler = this.#view.getUint16(compiled.slot + SLOT.handler16, true)
      if (handler < SPECIAL_HANDLERS) {
        this.#end(compiled)
        continue
      }
      const number = this.#free.pop() ?? this.#top++
      compiled.number = number
      this.#u16[number] = handler
      table.set(number, exports[`${index}`])
      this.#view.setUint16(compiled.slot + SLOT.handler16, SPECIAL_HANDLER.compiled, true)
      this.#view.setUint16(compiled.slot + SLOT.heat16, number, true)
      hart.count(COUNTER.regions)
      hart.add(COUNTER.regionsLive, 1)
    }
    hart.count(COUNTER.modules)
    hart.add(COUNTER.moduleBytes, module.length)
    hart.add(COUNTER.compileMs, performance.now() - began)
  }

  #end(region: Compiled): void {
    if (region.gone) return
    region.gone = true
    for (const { slots } of region.pages) {
      const regions = this.#byPage.get(slots)
      regions?.delete(region)
      if (regions?.size === 0) this.#byPage.delete(slots)
    }
    if (region.number === 0) {
      if (this.#view.getUint16(region.slot, true) !== SPECIAL_HANDLER.compiled) {
        this.#view.setUint16(region.slot + SLOT.heat16, 0, true)
      }
      return
    }
    this.#options.hart.i32[WORD.regionsEnded]++
    // As it was before, and cold. Whoever has written the instruction itself undecodes it next.
    this.#view.setUint32(region.slot, this.#u16[region.number], true)
    this.#options.table.set(region.number, null)
    this.#free.push(region.number)
    region.number = 0
    this.#options.hart.add(COUNTER.regionsLive, -1)
  }
}

/** Types and functions of a module of regions: the same in all of them, so that bodies can be written beforehand. */
const TYPE = { region: 0 }
const FUNCTION = { step: 0, confirmPage: 1 }

function regionModule(bodies: readonly FunctionBody[]): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder()
  const type = module.type(['i64', 'i32', 'i32'], ['i64', 'i32'])
  module.importSharedMemory(REGION, 'memory')
  module.importTable(REGION, 'regions')
  const step = module.importFunction(REGION, 'step', ['i64', 'i32'], ['i64', 'i32'])
  const confirmPage = module.importFunction(REGION, 'confirmPage', ['i64', 'i32'], ['i32'])
  if (type !== TYPE.region || step !== FUNCTION.step || confirmPage !== FUNCTION.confirmPage) {
    throw new Error('imports are not where the bodies expect them')
  }
  for (const [index, body] of bodies.entries()) module.export(`${index}`, 'function', module.insert(type, body))
  return module.finish()
}

/** The pages that a region was made from, each with its bytes. */
function pagesOf({ code }: Region): { delta: number; code: [number, number][] }[] {
  const pages = new Map<number, [number, number][]>()
  for (const [start, end] of code) {
    for (let at = start; at < end; ) {
      const delta = Math.floor(at / 4096)
      const until = Math.min(end, (delta + 1) * 4096)
      const list = pages.get(delta) ?? []
      list.push([at - delta * 4096, until - delta * 4096])
      pages.set(delta, list)
      at = until
    }
  }
  return [...pages].map(([delta, list]) => ({ delta, code: list }))
}
