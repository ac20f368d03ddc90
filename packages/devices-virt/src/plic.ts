/**
 * Platform-level interrupt controller, the flavour of the SiFive cores.
 * Spec: RISC-V PLIC 1.0.0; virt-machine.md section 6.2; virt-vmstate.md section 6.
 *
 * A wire has no memory of its level here: every `set(true)`, also a repeated one, makes the source pending, `set(false)`
 * does nothing, and completing does not look at the wire again. Devices therefore drive their line whenever their
 * condition is evaluated, and guests that never remove the cause of an interrupt are not flooded.
 */
import {
  type Device,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  type IrqLine,
  registersItself,
  u32Array,
  type Vmstate,
} from '@ferryvm/core'
import { z } from 'zod'

const PENDING = 0x1000
const ENABLE = 0x2000
const ENABLE_STRIDE = 0x80
const CONTEXT = 0x20_0000
const CONTEXT_STRIDE = 0x1000
const THRESHOLD = 0
const CLAIM = 4
const REGION_BYTES = 0x60_0000

const SOURCES = 96
const WORDS = SOURCES / 32
const PRIORITY_MASK = 7
/** Bits of mip that contexts 2h and 2h+1 drive: M-mode, then S-mode. */
const MIP_BITS = [11, 9]

export interface PlicState {
  source_priority: Uint32Array
  target_priority: Uint32Array
  pending: Uint32Array
  claimed: Uint32Array
  enable: Uint32Array
}

/** Identical in both stock releases. `contexts` is the receiver's own: 2 per hart. */
export const plicVmstate = (contexts: number): Vmstate<PlicState> =>
  defineVmstate({
    name: 'riscv_sifive_plic',
    version: 1,
    fields: {
      source_priority: u32Array(SOURCES),
      /** Thresholds. */
      target_priority: u32Array(contexts),
      pending: u32Array(WORDS),
      claimed: u32Array(WORDS),
      /** Context-major. */
      enable: u32Array(WORDS * contexts),
    },
  })

/** Becomes the machine's interrupt controller: `irq` of a placement is a source id, 1 to 95. */
export const plic = defineDevice({
  type: 'plic',
  props: z.object({}),
  migration: registersItself,
  realize: (ctx) => new Plic(ctx),
})

class Plic implements Device {
  readonly #ctx: DeviceContext<undefined>
  readonly #state: PlicState
  readonly #outputs: IrqLine[]

  constructor(ctx: DeviceContext<undefined>) {
    this.#ctx = ctx
    this.#outputs = ctx.machine.harts.flatMap((hart) => MIP_BITS.map((bit) => hart.line(bit)))
    const vmstate = plicVmstate(this.#outputs.length)
    this.#state = vmstate.createState()
    // The harts know mip as a whole; which part of SEIP is ours they learn from the lines.
    ctx.registerVmstate({ ...vmstate, postLoad: () => this.#update() }, this.#state)
    ctx.mmio(REGION_BYTES, {
      sizes: [4],
      read: (offset) => this.#read(offset),
      write: (offset, _bytes, value) => this.#write(offset, value >>> 0),
    })
    ctx.machine.provideInterruptController((source) => this.#line(source))
  }

  reset(): void {
    for (const words of Object.values(this.#state) as Uint32Array[]) words.fill(0)
    this.#update()
  }

  resume(): void {
    this.#update()
  }

  describe(): string {
    const words = (w: Uint32Array) => [...w].map((v) => v.toString(16).padStart(8, '0')).join(' ')
    return `pending ${words(this.#state.pending)}, claimed ${words(this.#state.claimed)}`
  }

  #line(source: number): IrqLine {
    if (!(source >= 1 && source < SOURCES)) throw new RangeError(`PLIC source ${source} is not in 1..${SOURCES - 1}`)
    const word = source >> 5
    const bit = 1 << (source & 31)
    return {
      set: (level) => {
        if (!level) return
        this.#state.pending[word]! |= bit
        this.#update()
      },
    }
  }

  #read(offset: number): number {
    const s = this.#state
    if (offset < 4 * SOURCES) return s.source_priority[offset >> 2]!
    if (offset >= PENDING && offset < PENDING + 4 * WORDS) return s.pending[(offset - PENDING) >> 2]!
    const enable = this.#enableIndex(offset)
    if (enable !== undefined) return s.enable[enable]!
    const { context, register } = this.#contextRegister(offset)
    if (context !== undefined && register === THRESHOLD) return s.target_priority[context]!
    if (context !== undefined && register === CLAIM) return this.#claim(context)
    this.#ctx.log.guestError('plic: read of a reserved register', { offset })
    return 0
  }

  #write(offset: number, value: number): void {
    const s = this.#state
    const { context, register } = this.#contextRegister(offset)
    const enable = this.#enableIndex(offset)
    if (offset < 4 * SOURCES) {
      if (offset > 0) s.source_priority[offset >> 2] = value & PRIORITY_MASK
    } else if (enable !== undefined) s.enable[enable] = value
    else if (context !== undefined && register === THRESHOLD) s.target_priority[context] = value & PRIORITY_MASK
    else if (context !== undefined && register === CLAIM) {
      if (value < SOURCES) s.claimed[value >> 5]! &= ~(1 << (value & 31))
    } else {
      this.#ctx.log.guestError('plic: write to a reserved or read-only register', { offset, value })
      return
    }
    this.#update()
  }

  #enableIndex(offset: number): number | undefined {
    const context = Math.floor((offset - ENABLE) / ENABLE_STRIDE)
    const word = ((offset - ENABLE) % ENABLE_STRIDE) >> 2
    return context >= 0 && context < this.#outputs.length && word < WORDS ? context * WORDS + word : undefined
  }

  #contextRegister(offset: number): { context?: number; register: number } {
    const context = Math.floor((offset - CONTEXT) / CONTEXT_STRIDE)
    const register = (offset - CONTEXT) % CONTEXT_STRIDE
    return context >= 0 && context < this.#outputs.length ? { context, register } : { register }
  }

  #claim(context: number): number {
    const source = this.#best(context)
    if (source !== 0) {
      const bit = 1 << (source & 31)
      this.#state.pending[source >> 5]! &= ~bit
      this.#state.claimed[source >> 5]! |= bit
      this.#update()
    }
    return source
  }

  /** The source that this context would get: highest priority above the threshold, then lowest id. 0: none. */
  #best(context: number): number {
    const { source_priority, target_priority, pending, claimed, enable } = this.#state
    let best = 0
    let bestPriority = target_priority[context]!
    for (let word = 0; word < WORDS; word++) {
      let candidates = pending[word]! & ~claimed[word]! & enable[context * WORDS + word]!
      while (candidates !== 0) {
        const bit = 31 - Math.clz32(candidates & -candidates)
        candidates &= candidates - 1
        const priority = source_priority[32 * word + bit]!
        if (priority > bestPriority) {
          best = 32 * word + bit
          bestPriority = priority
        }
      }
    }
    return best
  }

  /** Stock leaves the outputs alone when an enable bit changes; like a real PLIC we do not. */
  #update(): void {
    for (const [context, output] of this.#outputs.entries()) output.set(this.#best(context) !== 0)
  }
}
