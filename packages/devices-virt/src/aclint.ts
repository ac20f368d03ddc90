/**
 * ACLINT, the local interrupts of the harts: software interrupts (MSWI, what the CLINT calls MSIP), the machine timer
 * (MTIMER) and supervisor software interrupts (SSWI). Three devices, so that a board places and leaves out each.
 * Spec: RISC-V ACLINT 1.0; virt-machine.md section 6.1; virt-vmstate.md section 5.
 */
import {
  type Device,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  registersItself,
  stateless,
  u64Array,
  type Vmstate,
} from '@ferryvm/core'
import { z } from 'zod'

/** Bits of mip. */
const SSIP = 1
const MSIP = 3

/** Offset of mtime from the first mtimecmp; the board puts the first mtimecmp at CLINT base + 0x4000. */
const MTIME = 0x7ff8
const MTIMER_BYTES = 0x8000
const SWI_BYTES = 0x4000
const NS_PER_TICK = 100n
const ALL_ONES = (1n << 64n) - 1n

/** Software interrupts of M-mode: one word per hart. Its state is MSIP in each hart's mip. */
export const aclintMswi = defineDevice({
  type: 'aclint-mswi',
  props: z.object({}),
  migration: stateless,
  realize(ctx) {
    const { harts } = ctx.machine
    const lines = harts.map((hart) => hart.line(MSIP))
    ctx.mmio(SWI_BYTES, {
      sizes: [4],
      read: (offset) => (harts[offset >> 2]?.pending(MSIP) ? 1 : 0),
      write: (offset, _bytes, value) => lines[offset >> 2]?.set((value & 1) !== 0),
    })
    return {
      reset() {
        for (const line of lines) line.set(false)
      },
    }
  },
})

/** Software interrupts of S-mode: writing 1 sets SSIP, which the hart itself clears. */
export const aclintSswi = defineDevice({
  type: 'aclint-sswi',
  props: z.object({}),
  migration: stateless,
  realize(ctx) {
    const lines = ctx.machine.harts.map((hart) => hart.line(SSIP))
    ctx.mmio(SWI_BYTES, {
      sizes: [4],
      read: () => 0,
      write(offset, _bytes, value) {
        if ((value & 1) === 0) return
        const line = lines[offset >> 2]
        // An edge: the input does not hold SSIP, which software owns.
        line?.set(true)
        line?.set(false)
      },
    })
    return {}
  },
})

export interface MtimerState {
  timecmp: BigUint64Array
}

/** The number of harts is the receiver's own; the section carries no count. */
export const mtimerVmstate = (harts: number): Vmstate<MtimerState> =>
  defineVmstate({ name: 'riscv_mtimer', version: 1, fields: { timecmp: u64Array(harts) } })

/** mtime (10 MHz, from the machine's virtual clock) and mtimecmp of every hart. */
export const aclintMtimer = defineDevice({
  type: 'aclint-mtimer',
  props: z.object({}),
  migration: registersItself,
  realize: (ctx) => new AclintMtimer(ctx),
})

class AclintMtimer implements Device {
  readonly #ctx: DeviceContext<undefined>
  readonly #state: MtimerState

  constructor(ctx: DeviceContext<undefined>) {
    this.#ctx = ctx
    const vmstate = mtimerVmstate(ctx.machine.harts.length)
    this.#state = vmstate.createState()
    ctx.registerVmstate(vmstate, this.#state)
    ctx.mmio(MTIMER_BYTES, {
      sizes: [4, 8],
      read: (offset) => Number((this.#read(offset & ~7) >> BigInt(8 * (offset & 4))) & 0xffff_ffffn),
      write: (offset, _bytes, value) => {
        const shift = BigInt(8 * (offset & 4))
        const kept = this.#read(offset & ~7) & (ALL_ONES ^ (0xffff_ffffn << shift))
        this.#write(offset & ~7, kept | (BigInt(value >>> 0) << shift))
      },
      read64: (offset) => this.#read(offset & ~7),
      write64: (offset, value) => this.#write(offset & ~7, value),
    })
    this.#compareAll()
  }

  /** mtime starts at 0 again. mtimecmp is a power-on value: a reset leaves it. Spec: virt-machine.md section 6.1. */
  reset(): void {
    this.#setMtime(0n)
  }

  /** Also after a load: nothing else arms the timers of the harts. */
  resume(): void {
    this.#compareAll()
  }

  describe(): string {
    return `mtime=${this.#mtime} timecmp=${[...this.#state.timecmp].join(',')}`
  }

  get #mtime(): bigint {
    return BigInt.asUintN(64, this.#ctx.clock.ns / NS_PER_TICK + this.#ctx.machine.timeDelta)
  }

  #setMtime(value: bigint): void {
    this.#ctx.machine.timeDelta = BigInt.asIntN(64, value - this.#ctx.clock.ns / NS_PER_TICK)
    this.#compareAll()
  }

  #read(offset: number): bigint {
    if (offset === MTIME) return this.#mtime
    return this.#state.timecmp[offset >> 3] ?? 0n
  }

  #write(offset: number, value: bigint): void {
    if (offset === MTIME) this.#setMtime(value)
    else {
      const hart = this.#ctx.machine.harts[offset >> 3]
      if (!hart) return
      this.#state.timecmp[offset >> 3] = value
      hart.setMtimecmp(value)
    }
  }

  #compareAll(): void {
    for (const [index, hart] of this.#ctx.machine.harts.entries()) hart.setMtimecmp(this.#state.timecmp[index]!)
  }
}
