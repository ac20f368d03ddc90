import { Regions } from '../compiler/regions.ts'
import { type CsrEffects, CsrFile } from '../csr/csr-file.ts'
import type { CsrContext } from '../csr/csr-row.ts'
import type { ControlBlock } from '../hart/control.ts'
import type { GuestViews } from '../hart/guest-views.ts'
import type { HartState } from '../hart/hart-state.ts'
import { COUNTER, MSTATUS, MSTATUSH, PRIV, WORD } from '../hart/hart-state.ts'
import { HART_AREA, LAYOUT, MAX_REGIONS } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import { type CompiledCode, Exit, type Interpreter, type SystemImports } from '../interpreter/contract.ts'
import { fusesMultiplyAdd } from '../interpreter/fused-multiply-add.ts'
import { hasExtension } from '../interpreter/interpreter.ts'
import { CodePages, type OtherHarts } from '../mmu/code-pages.ts'
import { GuardedPage } from '../mmu/guarded-page.ts'
import { MemoryPort } from '../mmu/memory-port.ts'
import { Physical } from '../mmu/physical.ts'
import { Pmp } from '../mmu/pmp.ts'
import { Tlb } from '../mmu/tlb.ts'
import { Translation } from '../mmu/translation.ts'
import { CAUSE, Pending } from '../trap/causes.ts'
import { Interrupts } from '../trap/interrupts.ts'
import { After, SystemInstructions } from '../trap/system.ts'
import { takeTrap } from '../trap/trap.ts'
import type { MmioClient } from './mailbox.ts'
import { Fatal, Request, RunState } from './requests.ts'
import { answerSample } from './sampler.ts'

/** Instructions between two looks at the time. */
const BUDGET = 20_000
/** Regions of compiled code that share a module, when there are enough of them. */
const BATCH = 24
/** With a threshold below, code is compiled before there is a way to know what of it will run: for tests. */
const SPECULATION = 8
/** Exits without such a look, when a guest keeps leaving the interpreter. */
const EXITS_PER_POLL = 64
/**
 * Firmware parks harts in a loop of WFIs that end at once, because an interrupt stays pending for them. After so many in a
 * row each one sleeps a little, so that such harts leave the host's cores to those that work.
 */
const PATIENT_WFIS = 32
const NAP_MS = 0.2
const SSTATUS = 0x100
/** Low words of what sstatus shows and takes, see csr-table.ts; VS: vector state, which nothing here changes. */
const SSTATUS_LOW = 0xde762
const SSTATUS_WRITE = 0xc6122
const VS = 3 << 9
/** A WFI looks up at least this often, whatever it waits for. */
const MAX_WAIT_MS = 1000

export interface HartParts {
  readonly hart: HartState
  readonly views: GuestViews
  readonly control: ControlBlock
  readonly profile: HartProfile
  readonly mmio: MmioClient
  readonly poolPages: number
  readonly virtualNs: () => number
  readonly others?: OtherHarts
  /** Absent: everything is interpreted. */
  readonly compile?: CompileOptions
}

export interface CompileOptions {
  readonly memory: WebAssembly.Memory
  /** Of the machine: they share what compiled code may cost. */
  readonly harts: number
  /** So many jumps to an instruction make it worth compiling. */
  readonly threshold: number
}

/**
 * One hart: the parts around its interpreter, and the loop that drives it. Runs in the hart's own thread and blocks it; a
 * test may run it in place.
 */
export class HartCore {
  readonly #hart: HartState
  readonly #views: GuestViews
  readonly #control: ControlBlock
  readonly #others: OtherHarts | undefined
  readonly #mmio: MmioClient
  readonly #physical = new Physical()
  readonly #pmp: Pmp
  readonly #tlb: Tlb
  readonly #translation: Translation
  readonly #interrupts: Interrupts
  readonly #system: SystemInstructions
  readonly #csrs: CsrFile
  readonly #codePages: CodePages
  readonly memory: MemoryPort
  readonly #interpreter: Interpreter
  readonly #regions: Regions | undefined
  #exitsLeft = 0
  /** WFIs in a row that ended at once, for an interrupt that was pending but not taken. */
  #idleWfis = 0
  #leaveAfterCsr = false
  /** To take BigInts apart and put them together without allocating more than the result. */
  readonly #big = new BigInt64Array(2)
  readonly #half = new Int32Array(this.#big.buffer)

  /** @param makeInterpreter gets the imports, all but `decode` and `fpu`, which are the interpreter's own */
  constructor(
    parts: HartParts,
    makeInterpreter: (imports: SystemImports, compiled: CompiledCode | undefined) => Interpreter,
  ) {
    const { hart, profile, views } = parts
    this.#hart = hart
    this.#views = views
    this.#control = parts.control
    this.#others = parts.others
    this.#mmio = parts.mmio
    this.#physical.setRanges(parts.control.mappings())
    this.#pmp = new Pmp(hart, profile.pmpEntries)
    this.#tlb = new Tlb(views.buffer, hart)
    this.#translation = new Translation({
      hart,
      profile,
      views,
      physical: this.#physical,
      pmp: this.#pmp,
      tlb: this.#tlb,
      mmio: parts.mmio,
    })
    this.#interrupts = new Interrupts(hart, profile, parts.control, parts.virtualNs)
    this.#system = new SystemInstructions(hart, profile, this.#tlb, () => this.#dropStaleCode())
    const context: CsrContext = { hart, profile, interrupts: this.#interrupts, pmp: this.#pmp }
    this.#csrs = new CsrFile(context, this.#csrEffects())
    const { compile } = parts
    const compiled = compile && {
      table: new WebAssembly.Table({ initial: MAX_REGIONS, maximum: MAX_REGIONS, element: 'anyfunc' }),
      threshold: compile.threshold,
    }
    const imports: SystemImports = {
      load: (address, kind) => this.memory.load(address, kind),
      store: (address, value, bytes) => this.memory.store(address, value, bytes),
      amoAddress: (address, bytes, write) => this.memory.amoAddress(address, bytes, write),
      cacheBlock: (op, address) => this.memory.cacheBlock(op, address),
      csr: (funct3, number, source, sourceIndex) => this.#csr(funct3, number, source, sourceIndex),
      fetch: (pc) => this.memory.fetch(pc),
      straddledHalf: () => this.memory.straddledHalf(),
    }
    this.#interpreter = makeInterpreter(imports, compiled)
    this.#codePages = new CodePages(hart, views, this.#tlb, this.#interpreter.code, parts.poolPages, parts.others)
    this.memory = new MemoryPort({
      hart,
      profile,
      views,
      physical: this.#physical,
      pmp: this.#pmp,
      tlb: this.#tlb,
      translation: this.#translation,
      codePages: this.#codePages,
      guarded: new GuardedPage(views.buffer, hart, this.#interpreter.code),
      mmio: parts.mmio,
      afterMmio: () => {
        // A flash bank that changes between array and commands does so before the guest's next access.
        if (!(Atomics.load(hart.i32, WORD.request) & Request.mappings)) return
        Atomics.and(hart.i32, WORD.request, ~Request.mappings)
        this.#refreshMappings()
      },
    })
    if (compile && compiled) {
      this.#regions = new Regions({
        memory: compile.memory,
        hart,
        table: compiled.table,
        step: this.#interpreter.exports.step,
        harts: compile.harts,
        threshold: compile.threshold,
        batch: Math.min(BATCH, compile.threshold),
        speculates: compile.threshold < SPECULATION,
        decode: (slot) => this.#interpreter.code.decode(slot),
        has: hasExtension(profile),
        fusesMultiplyAdd: fusesMultiplyAdd(),
        knownCode: (lo, hi) => this.memory.knownCode(lo, hi),
        confirmPage: (address, slots) => this.memory.confirmCode(address, slots),
      })
      this.#codePages.compiled = this.#regions
    }
    this.#translation.reset()
  }

  /**
   * Runs guest code until told to exit or until it cannot go on. Blocks.
   * @returns whether it is to be called again, after the thread's event loop has turned
   */
  loop(): boolean {
    const { i32 } = this.#hart
    Atomics.store(i32, WORD.runState, RunState.running)
    while (this.step()) if (this.#regions?.takeEvicted()) return true
    Atomics.store(i32, WORD.runState, RunState.gone)
    Atomics.notify(i32, WORD.runState)
    Atomics.notify(i32, WORD.flushDone)
    return false
  }

  /** One poll and what follows, up to the next. @returns false: leave the loop */
  step(): boolean {
    const hart = this.#hart
    const { i32 } = hart
    if (Atomics.load(i32, WORD.request) !== 0 && !this.serveRequests()) return false
    this.#hart.count(COUNTER.polls)
    this.#takeInterrupt()
    if (i32[WORD.halted] !== 0) {
      if (!this.#interrupts.awake) {
        this.#wait()
        return true
      }
      i32[WORD.halted] = 0
      if (++this.#idleWfis > PATIENT_WFIS) {
        this.#sleep(NAP_MS)
        return true
      }
    }
    this.#exitsLeft = EXITS_PER_POLL
    while (this.#exitsLeft-- > 0) {
      const exit = this.#interpreter.exports.run(BUDGET)
      if (exit === Exit.poll) {
        this.#regions?.poll()
        return true
      }
      if (exit === Exit.hot) {
        this.#regions!.hot()
        continue
      }
      if (exit === Exit.trap) {
        if (!this.#finishTrap()) return true
      } else if (!this.#finishSystem()) return false
      if (i32[WORD.halted] !== 0) return true
    }
    return true
  }

  /** @returns false: leave the loop */
  serveRequests(): boolean {
    const { i32 } = this.#hart
    for (;;) {
      const request = Atomics.and(i32, WORD.request, Request.pause)
      if (request & Request.exit) return false
      if (request & Request.mappings) this.#refreshMappings()
      if (request & Request.flushAll) this.#forgetAll()
      if (request & Request.staleCode) this.#dropStaleCode()
      if (request & Request.flushWrite) this.#acknowledgeFlush()
      if (request & Request.irq) this.#interrupts.refresh()
      if (request & Request.sample) answerSample(this.#hart)
      if (!(request & Request.pause)) return true
      this.#park()
    }
  }

  /** After registers that choose translations were changed from outside. */
  translationChanged(): void {
    this.#translation.update()
  }

  flushTranslations(): void {
    this.#tlb.flushTranslated()
  }

  flushAddress(address: bigint): void {
    this.#tlb.flushPage(Number(BigInt.asIntN(32, address)), Number(BigInt.asIntN(32, address >> 32n)))
  }

  /** Only the flush of the write TLB: all that is safe in the middle of an instruction, when another hart waits for it. */
  serveFlush(): void {
    if (Atomics.and(this.#hart.i32, WORD.request, ~Request.flushWrite) & Request.flushWrite) this.#acknowledgeFlush()
  }

  #acknowledgeFlush(): void {
    const { i32 } = this.#hart
    const wanted = Atomics.load(i32, WORD.flushWanted)
    // What this hart may have written to a page that another one now holds code of, that one has not heard about.
    if (this.#others) {
      for (const page of this.#tlb.writable()) if (this.#views.isCode(page)) this.#others.written(page)
    }
    this.#tlb.flushWrite()
    Atomics.store(i32, WORD.flushDone, wanted)
    Atomics.notify(i32, WORD.flushDone)
  }

  #park(): void {
    const { i32 } = this.#hart
    Atomics.store(i32, WORD.runState, RunState.parked)
    Atomics.notify(i32, WORD.runState)
    for (;;) {
      const request = Atomics.load(i32, WORD.request)
      if (!(request & Request.pause) || request & Request.exit) break
      Atomics.wait(i32, WORD.request, request)
    }
    Atomics.store(i32, WORD.runState, RunState.running)
    // The device thread may have changed any register.
    i32[WORD.pageVaddr] = i32[WORD.pageVaddr + 1] = -1
    this.#pmp.update()
    this.#translation.update()
    this.#interrupts.refresh()
  }

  #wait(): void {
    this.#idleWfis = 0
    this.#sleep(Math.min(this.#interrupts.msToTimer(), MAX_WAIT_MS))
  }

  /** Until someone asks for something, or the time is up. The caller polls before it runs guest code. */
  #sleep(ms: number): void {
    const { i32 } = this.#hart
    this.#hart.count(COUNTER.waits)
    Atomics.store(i32, WORD.runState, RunState.waiting)
    Atomics.wait(i32, WORD.request, 0, ms)
    Atomics.store(i32, WORD.runState, RunState.running)
  }

  #takeInterrupt(): void {
    // A device may have changed its mind in the access before: what it took back is not to be taken any more.
    const { i32 } = this.#hart
    if (Atomics.load(i32, WORD.request) & Request.irq) {
      Atomics.and(i32, WORD.request, ~Request.irq)
      this.#interrupts.refresh()
    }
    const number = this.#interrupts.next()
    if (number < 0) return
    i32[WORD.halted] = 0
    this.#idleWfis = 0
    takeTrap(this.#hart, number, true, 0, 0)
    this.#translation.update()
  }

  /** @returns false: the hart has slept, and polls before it goes on */
  #finishTrap(): boolean {
    const hart = this.#hart
    const { i32 } = hart
    const pending = i32[WORD.trapPending]
    i32[WORD.trapPending] = Pending.none
    if (pending === Pending.missing) {
      this.#mmio.wantPage(this.memory.missingPage)
      this.#sleep(MAX_WAIT_MS)
      return false
    }
    if (pending === Pending.csrDone) {
      const value = hart.get(LAYOUT.trapValue)
      const insn = this.#instruction()
      hart.setX((insn >>> 7) & 31, value)
      hart.retire(4)
      this.#takeInterrupt()
      return true
    }
    if (pending === Pending.illegal) {
      const insn = this.#instruction()
      i32[WORD.trapPending] = Pending.none
      takeTrap(hart, CAUSE.illegal, false, insn | 0, 0)
    } else {
      takeTrap(hart, i32[WORD.trapCause], false, i32[WORD.trapValue], i32[WORD.trapValue + 1])
    }
    this.#translation.update()
    return true
  }

  /** The one at pc, which has begun: a page of tables that is missing now is waited for without giving way. */
  #instruction(): number {
    const { i32 } = this.#hart
    for (;;) {
      const insn = this.memory.instructionAt(this.#hart.pc)
      if (insn !== undefined || i32[WORD.trapPending] !== Pending.missing) return insn ?? 0
      i32[WORD.trapPending] = Pending.none
      const page = this.memory.missingPage
      this.#mmio.wantPage(page)
      while (this.#views.isMissing(page)) Atomics.wait(i32, WORD.mailbox, Atomics.load(i32, WORD.mailbox), 1)
    }
  }

  /** @returns false: the hart cannot go on */
  #finishSystem(): boolean {
    const hart = this.#hart
    hart.count(COUNTER.systems)
    const system = this.#system
    switch (system.execute(this.#interpreter.exports.exitInsn.value | 0)) {
      case After.trap:
        takeTrap(hart, system.cause, false, system.valueLo, system.valueHi)
        this.#translation.update()
        return true
      case After.returned:
        this.#translation.update()
        this.#takeInterrupt()
        return true
      case After.wait:
        hart.halted = true
        return true
      case After.fatal:
        hart.set(LAYOUT.fatalValue, hart.pc)
        Atomics.store(hart.i32, WORD.fatal, Fatal.virtualization)
        return false
      default:
        return true
    }
  }

  #csr(funct3: number, number: number, source: bigint, sourceIndex: number): bigint {
    const { i32, u64 } = this.#hart
    this.#hart.count(COUNTER.csrs)
    this.#leaveAfterCsr = false
    if (number === SSTATUS && (funct3 & 3) !== 1 && i32[WORD.priv] !== PRIV.U) {
      this.#big[0] = source
      return this.#changeSstatus((funct3 & 3) === 2, this.#half[0])
    }
    const old = this.#csrs.execute(funct3, number, source, sourceIndex)
    if (old === undefined) {
      i32[WORD.trapPending] = Pending.illegal
      return 0n
    }
    if (this.#leaveAfterCsr) {
      i32[WORD.trapPending] = Pending.csrDone
      u64[LAYOUT.trapValue >> 3] = old
    }
    return old
  }

  /**
   * csrrs and csrrc on sstatus: three of four CSR instructions of a kernel, which turns interrupts off and on and opens
   * user memory with them. The same as the row in csr-table.ts, without its BigInts and without asking for the time.
   */
  #changeSstatus(set: boolean, bits: number): bigint {
    const { i32 } = this.#hart
    const before = i32[WORD.mstatus]
    const dirty = (before & MSTATUS.FS) === MSTATUS.FS || (before & VS) === VS
    this.#half[2] = before & SSTATUS_LOW
    this.#half[3] = (i32[WORD.mstatus + 1] & MSTATUSH.UXL) | (dirty ? 1 << 31 : 0)
    const old = this.#big[1]
    const changed = (set ? ~before : before) & bits & SSTATUS_WRITE
    if (changed === 0) return old
    i32[WORD.mstatus] = before ^ changed
    if (changed & ~MSTATUS.SIE) this.#translation.update()
    if (set && changed & MSTATUS.SIE && i32[WORD.quiet] === 0 && this.#interrupts.next() >= 0) {
      i32[WORD.trapPending] = Pending.csrDone
      this.#hart.u64[LAYOUT.trapValue >> 3] = old
    }
    return old
  }

  #csrEffects(): CsrEffects {
    return {
      timersChanged: () => this.#interrupts.refresh(),
      tlbInvalid: () => {
        this.#tlb.flushAll()
        this.#leaveAfterCsr = true
      },
      translationChanged: () => {
        // A new address space holds from the next instruction on, so that one has to be fetched through it.
        if (this.#translation.update()) this.#leaveAfterCsr = true
      },
      interruptsChanged: () => {
        if (this.#interrupts.next() >= 0) this.#leaveAfterCsr = true
      },
    }
  }

  #refreshMappings(): void {
    this.#views.refresh()
    this.#interpreter.code.memoryGrew()
    this.#regions?.memoryGrew()
    this.#physical.setRanges(this.#control.mappings())
    this.#tlb.flushAll()
  }

  #forgetAll(): void {
    const { i32 } = this.#hart
    this.#codePages.dropAll()
    this.#translation.reset()
    this.#interrupts.refresh()
    i32[WORD.pageVaddr] = i32[WORD.pageVaddr + 1] = -1
    i32[WORD.trapPending] = Pending.none
  }

  /** Drops decoded pages that others have written. Between two instructions only. */
  #dropStaleCode(): void {
    const { i32, base } = this.#hart
    const chunks = Atomics.exchange(i32, WORD.staleChunks, 0)
    if (chunks === 0) return
    const mem32 = this.#views.i32
    for (let chunk = 0; chunk < 32; chunk++) {
      if (!(chunks & (1 << chunk))) continue
      const first = (base + HART_AREA.staleCode) / 4 + chunk * 1024
      for (let at = first; at < first + 1024; at++) {
        if (Atomics.load(mem32, at) === 0) continue
        const bits = Atomics.exchange(mem32, at, 0)
        for (let bit = 0; bit < 32; bit++) {
          if (bits & (1 << bit)) this.#codePages.drop(chunk * 32768 + (at - first) * 32 + bit)
        }
      }
    }
    i32[WORD.pageVaddr] = i32[WORD.pageVaddr + 1] = -1
  }
}
