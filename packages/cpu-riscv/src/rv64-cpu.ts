import type {
  Cpu,
  HartPort,
  HartSampler,
  InterruptFile,
  IrqLine,
  PhysicalMap,
  SaveStateRegistry,
  VirtualClock,
} from '@ferryvm/core'
import { LEAVE, LEAVE_MEANS, LEAVE_NAMES } from './compiler/leave.ts'
import { CSRS } from './csr/csr-table.ts'
import type { ControlBlock } from './hart/control.ts'
import { COUNTER, type HartState, IRQ, WORD } from './hart/hart-state.ts'
import { FILE, InterruptFileMemory } from './hart/interrupt-file.ts'
import { LAYOUT } from './hart/layout.ts'
import type { HartProfile } from './hart/profile.ts'
import { registerNames, X_NAMES } from './hart/register-names.ts'
import { resetHart } from './hart/reset.ts'
import { Throttle } from './hart/throttle.ts'
import { Pmp } from './mmu/pmp.ts'
import { EXTERNAL } from './trap/interrupt-priorities.ts'
import { Interrupts } from './trap/interrupts.ts'
import { cpuCommonVmstate, cpuVmstate } from './vmstate/cpu-vmstate.ts'
import { otherCpuVmstate } from './vmstate/other-release.ts'
import { toldOf } from './vmstate/told-isa.ts'
import { Request, RunState } from './worker/requests.ts'
import { createSampler } from './worker/sampler.ts'
import { markStale, request } from './worker/stale-code.ts'

const MTIMECMP = LAYOUT.mtimecmp >> 3
/** Request bits that a parked hart keeps until it runs again. */
const EVERYTHING = Request.flushAll | Request.mappings | Request.irq

export interface Rv64CpuParts {
  readonly harts: readonly HartState[]
  readonly profile: HartProfile
  readonly control: ControlBlock
  readonly map: PhysicalMap
  readonly clock: VirtualClock
  /** Whether the harts compile hot code. */
  readonly compiles: boolean
  /** See Rv64Options. */
  readonly timerNudge: boolean
  readonly toldIsa?: (map: PhysicalMap) => string | undefined
  readonly ready: Promise<void>
  close(): Promise<void>
}

/** The device thread's end of a CPU: everything goes through memory that the harts' threads share. */
export class Rv64Cpu implements Cpu {
  readonly harts: readonly HartPort[]
  readonly ready: Promise<void>
  readonly sampler: HartSampler
  readonly #states: readonly HartState[]
  readonly #parts: Rv64CpuParts
  /**
   * Harts that arrived with SEIP pending. mip does not say whether the interrupt controller or software set it; the
   * controller's first word after the load decides: if its line is low, it was software.
   */
  readonly #seipUnclaimed = new Set<HartState>()
  readonly #throttle = new Throttle((on) => (on ? this.#resume() : this.#requestAll(Request.pause)))

  constructor(parts: Rv64CpuParts) {
    this.#parts = parts
    this.ready = parts.ready
    this.#states = parts.harts
    this.harts = parts.harts.map((hart) => this.#port(hart))
    this.sampler = createSampler(parts.harts)
    parts.map.onRamMappingsChanged(() => {
      parts.control.setMappings(parts.map.ramMappings())
      this.#requestAll(Request.mappings)
    })
    const mem32 = new Int32Array(parts.map.memory.buffer)
    parts.map.memory.onCodeWrite((page) => {
      for (const hart of this.#states) markStale(mem32, hart, page, true)
    })
  }

  /** Sections of each hart: `cpu_common`, then `cpu`; the instance is the hart's index. */
  register(sections: SaveStateRegistry): void {
    for (const hart of this.#states) {
      const parts = {
        hart,
        profile: this.#parts.profile,
        pending: () => {
          const interrupts = this.#interrupts(hart)
          return interrupts.pending() | (this.#parts.timerNudge ? interrupts.armed() : 0)
        },
        told: () => toldOf(this.#parts.map, this.#parts.toldIsa?.(this.#parts.map)),
        loaded: (seip: boolean) => {
          if (seip) this.#seipUnclaimed.add(hart)
          else this.#seipUnclaimed.delete(hart)
          request(hart, EVERYTHING)
        },
      }
      const common = cpuCommonVmstate(parts)
      sections.register(common, common.createState(), { instanceId: hart.index })
      const own = cpuVmstate(parts)
      const state = own.createState()
      const other = otherCpuVmstate(parts, state)
      const alternatives = [{ vmstate: other, state: other.createState() }]
      sections.register(own, state, { instanceId: hart.index, alternatives })
    }
  }

  get timeDelta(): bigint {
    return this.#parts.control.timeDelta
  }

  set timeDelta(value: bigint) {
    this.#parts.control.timeDelta = value
    this.#requestAll(Request.irq)
  }

  start(): void {
    this.#resume()
    this.#throttle.start()
  }

  #resume(): void {
    for (const hart of this.#states) {
      Atomics.and(hart.i32, WORD.request, ~Request.pause)
      Atomics.notify(hart.i32, WORD.request)
    }
  }

  async pause(): Promise<void> {
    this.#throttle.stop()
    this.#requestAll(Request.pause)
    for (const hart of this.#states) {
      await settle(hart.i32, WORD.runState, (state) => state === RunState.parked || state === RunState.gone)
    }
  }

  reset(): void {
    for (const hart of this.#states) resetHart(hart, this.#parts.profile)
    this.flushAll()
  }

  flushAll(): void {
    this.#requestAll(EVERYTHING)
  }

  async flushWriteTlb(): Promise<void> {
    const wanted = this.#states.map((hart) => {
      const sequence = (Atomics.add(hart.i32, WORD.flushWanted, 1) + 1) | 0
      request(hart, Request.flushWrite)
      return sequence
    })
    for (const [index, hart] of this.#states.entries()) {
      await settle(hart.i32, WORD.flushDone, (done) => {
        const state = Atomics.load(hart.i32, WORD.runState)
        // A parked hart empties its TLB before it runs again.
        return state === RunState.parked || state === RunState.gone || ((done - wanted[index]) | 0) >= 0
      })
    }
  }

  throttle(percent: number): void {
    this.#throttle.percent = percent
  }

  get instructionsRetired(): bigint {
    return this.#states.reduce((sum, hart) => sum + hart.get(LAYOUT.instret), 0n)
  }

  readRegister(hart: number, name: string): bigint {
    const state = this.#states[hart]
    if (!state) throw new RangeError(`no hart ${hart}; there are ${this.#states.length}`)
    const read = registerNames.get(name)
    if (read) return read(state)
    for (const csr of CSRS.values()) if (csr.name === name) return csr.read(this.#csrContext(state))
    throw new RangeError(`no register "${name}"`)
  }

  describe(hart: number): string {
    const state = this.#states[hart]
    const hex = (value: bigint) => value.toString(16).padStart(16, '0')
    const line = (cells: string[]) => cells.join(' ')
    const rows = [`hart ${hart} pc ${hex(state.pc)} mode ${'US?M'[state.priv]}${state.halted ? ' halted' : ''}`]
    for (const name of [
      'mstatus',
      'mip',
      'mie',
      'mideleg',
      'medeleg',
      'mtvec',
      'stvec',
      'mepc',
      'sepc',
      'mcause',
      'scause',
      'mtval',
      'stval',
      'satp',
    ]) {
      rows.push(` ${name.padEnd(8)} ${hex(this.readRegister(hart, name))}`)
    }
    for (let i = 0; i < 32; i += 4) {
      rows.push(line([0, 1, 2, 3].map((k) => ` x${i + k}/${X_NAMES[i + k]}`.padEnd(9) + hex(state.x(i + k)))))
    }
    for (let i = 0; i < 32; i += 4) {
      rows.push(line([0, 1, 2, 3].map((k) => ` f${i + k}`.padEnd(9) + hex(state.get(LAYOUT.f + (i + k) * 8)))))
    }
    return rows.join('\n')
  }

  describeCompiler(): string {
    if (!this.#parts.compiles) return 'accelerator: interp (nothing is compiled)'
    const count = this.counters()
    const number = (value: number) => Math.round(value).toLocaleString('en')
    const leaves = LEAVE_NAMES.map((name) => {
      const times = this.#states.reduce((sum, hart) => sum + Number(hart.get(LAYOUT.leaves + LEAVE[name] * 8)), 0)
      return `  ${name.padEnd(8)} ${number(times).padStart(15)}  ${LEAVE_MEANS[name]}`
    })
    return [
      'accelerator: jit',
      `regions: ${number(count.regions)} compiled, ${number(count.regionsLive)} live, ${number(count.regionsStale)} ended ` +
        `because their code changed, ${number(count.regionsRefused)} refused, ${number(count.regionsFailed)} failed`,
      `guest instructions in them: ${number(count.regionInstructions)}`,
      `WebAssembly: ${number(count.modules)} modules, ${number(count.moduleBytes / 1024)} KiB`,
      `time of the harts spent on it: ${number(count.compileMs)} ms`,
      `dropped to make room: ${number(count.evictions)} times`,
      'why compiled code was left:',
      ...leaves,
    ].join('\n')
  }

  /** How often what happened, for tuning: sums over the harts, names as in COUNTER. */
  counters(): Record<keyof typeof COUNTER, number> {
    const entries = Object.entries(COUNTER).map(([name, index]) => [
      name,
      this.#states.reduce((sum, hart) => sum + hart.counter(index), 0),
    ])
    return Object.fromEntries(entries)
  }

  async close(): Promise<void> {
    this.#throttle.stop()
    this.#requestAll(Request.exit)
    for (const hart of this.#states) {
      await settle(hart.i32, WORD.runState, (state) => state === RunState.gone || state === RunState.starting)
    }
    await this.#parts.close()
  }

  #port(hart: HartState): HartPort {
    const wake = () => request(hart, Request.irq)
    const seipUnclaimed = this.#seipUnclaimed
    const line = (mipBit: number): IrqLine => ({
      set(level) {
        const bit = 1 << mipBit
        // SSIP is a bit that software clears, so a line can only set it.
        if (bit === IRQ.SSIP) {
          if (level) Atomics.or(hart.i32, WORD.mip, bit)
        } else {
          if (bit === IRQ.SEIP && seipUnclaimed.delete(hart) && !level) Atomics.or(hart.i32, WORD.mip, bit)
          const before = level
            ? Atomics.or(hart.i32, WORD.externalIrq, bit)
            : Atomics.and(hart.i32, WORD.externalIrq, ~bit)
          if (((before & bit) !== 0) === level) return
        }
        wake()
      },
    })
    return {
      index: hart.index,
      line,
      interruptFiles: this.#interruptFiles(hart, line),
      pending: (mipBit) => (this.#interrupts(hart).pending() & (1 << mipBit)) !== 0,
      setMtimecmp(value) {
        Atomics.store(hart.u64, MTIMECMP, BigInt.asUintN(64, value))
        wake()
      },
    }
  }

  #interruptFiles(hart: HartState, line: HartPort['line']): HartPort['interruptFiles'] {
    const guests = this.#parts.profile.guestFiles
    if (guests === undefined) return undefined
    const file = (index: number): InterruptFile => {
      const memory = new InterruptFileMemory(hart, index)
      return {
        setPending(identity) {
          memory.setPending(identity)
          request(hart, Request.irq)
        },
        reset: () => memory.reset(),
        save(into) {
          into.eidelivery = memory.eidelivery
          into.eithreshold = memory.eithreshold
          memory.saveIdentities(into.eistate)
        },
        load: ({ eidelivery, eithreshold, eistate }) => {
          memory.load(eidelivery, eithreshold, eistate)
          // What mip said of the external interrupts was this, or else software's. From here on it follows from the file.
          if (index === FILE.M) line(EXTERNAL.M).set(false)
          if (index !== FILE.S) return
          if (memory.level) this.#seipUnclaimed.delete(hart)
          line(EXTERNAL.S).set(false)
        },
      }
    }
    return { machine: file(FILE.M), supervisor: Array.from({ length: 1 + guests }, (_, i) => file(FILE.S + i)) }
  }

  #interrupts(hart: HartState): Interrupts {
    const { profile, control, clock } = this.#parts
    return new Interrupts(hart, profile, control, () => clock.nsNumber)
  }

  #csrContext(hart: HartState) {
    const { profile } = this.#parts
    return { hart, profile, interrupts: this.#interrupts(hart), pmp: new Pmp(hart, profile.pmpEntries) }
  }

  #requestAll(bits: number): void {
    for (const hart of this.#states) request(hart, bits)
  }
}

/** Resolves once `done` holds for the word. */
async function settle(i32: Int32Array<SharedArrayBuffer>, at: number, done: (value: number) => boolean): Promise<void> {
  for (;;) {
    const value = Atomics.load(i32, at)
    if (done(value)) return
    // A short timeout covers what changes beside the word.
    const waiting = Atomics.waitAsync(i32, at, value, 5)
    if (waiting.async) await waiting.value
  }
}
