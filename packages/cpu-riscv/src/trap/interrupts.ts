import type { ControlBlock } from '../hart/control.ts'
import type { HartState } from '../hart/hart-state.ts'
import { IRQ, MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import { FILE, InterruptFileMemory } from '../hart/interrupt-file.ts'
import { csrOffset, LAYOUT } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import { EXTERNAL, firstInterrupt } from './interrupt-priorities.ts'

/** One tick of mtime: 10 MHz. */
export const TICK_NS = 100
const ALL_ONES = 0xffff_ffff_ffff_ffffn
/** Highest first. Spec: privileged ISA, "Machine Interrupt Registers". */
const PRIORITY = [11, 3, 7, 9, 1, 5, 12, 10, 2, 6] as const
const MTIMECMP = LAYOUT.mtimecmp >> 3
const STIMECMP = csrOffset('stimecmp') >> 3
const HGEIE = csrOffset('hgeie') >> 2
const HIDELEG = csrOffset('hideleg') >> 2
/** VS-level interrupts are for a guest's guest, which never runs. */
const VS_LEVEL = IRQ.VSSIP | IRQ.VSTIP | IRQ.VSEIP

/**
 * Composes mip and chooses interrupts, for one hart. mip's word holds what software wrote (SSIP, SEIP, and STIP without
 * Sstc); lines from devices are in externalIrq32; MTIP and STIP follow from the time.
 */
export class Interrupts {
  readonly #hart: HartState
  readonly #profile: HartProfile
  readonly #control: ControlBlock
  readonly #virtualNs: () => number
  /** Interrupt files: of M-mode, of S-mode, of the guests of S-mode. */
  readonly files: readonly InterruptFileMemory[]
  readonly #miprio: Uint8Array
  readonly #siprio: Uint8Array
  /** Deadlines in ticks, as the last {@link refresh} saw them. */
  #mtimecmp = Infinity
  #stimecmp = Infinity
  #stce = false
  #delta = 0

  constructor(hart: HartState, profile: HartProfile, control: ControlBlock, virtualNs: () => number) {
    this.#hart = hart
    this.#profile = profile
    this.#control = control
    this.#virtualNs = virtualNs
    const files = profile.guestFiles === undefined ? 0 : FILE.S + 1 + profile.guestFiles
    this.files = Array.from({ length: files }, (_, index) => new InterruptFileMemory(hart, index))
    this.#miprio = hart.u8.subarray(LAYOUT.miprio, LAYOUT.miprio + 64)
    this.#siprio = hart.u8.subarray(LAYOUT.siprio, LAYOUT.siprio + 64)
    this.refresh()
  }

  /** After mtimecmp, stimecmp, menvcfg or the time delta changed. */
  refresh(): void {
    const { u64, i32 } = this.#hart
    this.#mtimecmp = toTicks(Atomics.load(u64, MTIMECMP))
    this.#stce = this.#profile.sstc && i32[WORD.menvcfg + 1] < 0
    const stimecmp = u64[STIMECMP]
    this.#stimecmp =
      !this.#stce || (this.#profile.stimecmpNever && stimecmp === ALL_ONES) ? Infinity : toTicks(stimecmp)
    this.#delta = Number(this.#control.timeDelta)
  }

  /** mtime now. */
  get time(): bigint {
    return BigInt.asUintN(64, BigInt(Math.floor(this.#virtualNs() / TICK_NS)) + this.#control.timeDelta)
  }

  /** mip with every source. */
  pending(): number {
    const { i32 } = this.#hart
    const now = Math.floor(this.#virtualNs() / TICK_NS) + this.#delta
    let mip = Atomics.load(i32, WORD.mip) | Atomics.load(i32, WORD.externalIrq)
    if (now >= this.#mtimecmp) mip |= IRQ.MTIP
    if (this.#stce) mip = now >= this.#stimecmp ? mip | IRQ.STIP : mip & ~IRQ.STIP
    if (this.files.length > 0) mip |= this.#fromFiles()
    return mip
  }

  #fromFiles(): number {
    const machine = this.files[FILE.M].level ? IRQ.MEIP : 0
    const supervisor = this.files[FILE.S].level ? IRQ.SEIP : 0
    return machine | supervisor | (this.hgeip & this.#hart.i32[HGEIE] ? IRQ.SGEIP : 0)
  }

  /** Which guests' files have an interrupt: bit 1 is the first one's. */
  get hgeip(): number {
    let bits = 0
    for (let guest = 1; FILE.S + guest < this.files.length; guest++) {
      if (this.files[FILE.S + guest].level) bits |= 1 << guest
    }
    return bits
  }

  /** Bits of the timers that are set for some time, MTIP and STIP. */
  armed(): number {
    this.refresh()
    const NEVER = 2 ** 63
    return (this.#mtimecmp < NEVER ? IRQ.MTIP : 0) | (this.#stimecmp < NEVER ? IRQ.STIP : 0)
  }

  /** @returns number of the interrupt to take now, or -1 */
  next(): number {
    const { i32 } = this.#hart
    const enabled = this.pending() & i32[WORD.mie]
    i32[WORD.quiet] = enabled === 0 ? 1 : 0
    if (enabled === 0) return -1
    const mstatus = i32[WORD.mstatus]
    const priv = i32[WORD.priv]
    const mideleg = i32[WORD.mideleg]
    let ready = 0
    let external: number = EXTERNAL.M
    if (priv < PRIV.M || mstatus & MSTATUS.MIE) ready = enabled & ~mideleg
    if (ready === 0 && (priv < PRIV.S || (priv === PRIV.S && mstatus & MSTATUS.SIE))) {
      ready = enabled & mideleg & ~VS_LEVEL
      external = EXTERNAL.S
    }
    if (ready === 0) return -1
    if (this.files.length > 0) return this.#first(ready, external)
    for (const number of PRIORITY) if (ready & (1 << number)) return number
    return -1
  }

  #first(ready: number, external: number): number {
    return firstInterrupt(ready, external === EXTERNAL.M ? this.#miprio : this.#siprio, external)
  }

  /** The interrupt of M-mode that comes first, whether or not mstatus lets it in; -1: none. */
  topOfMachine(): number {
    const { i32 } = this.#hart
    return this.#first(this.pending() & i32[WORD.mie] & ~i32[WORD.mideleg], EXTERNAL.M)
  }

  /** The same for S-mode. */
  topOfSupervisor(): number {
    const { i32 } = this.#hart
    return this.#first(this.pending() & i32[WORD.mie] & i32[WORD.mideleg] & ~i32[HIDELEG] & ~VS_LEVEL, EXTERNAL.S)
  }

  /** Would a hart in WFI go on? Regardless of mstatus and mideleg. */
  get awake(): boolean {
    return (this.pending() & this.#hart.i32[WORD.mie]) !== 0
  }

  /** Milliseconds until a timer that is enabled in mie fires; Infinity: none will. */
  msToTimer(): number {
    const mie = this.#hart.i32[WORD.mie]
    const deadline = Math.min(
      mie & IRQ.MTIP ? this.#mtimecmp : Infinity,
      mie & IRQ.STIP && this.#stce ? this.#stimecmp : Infinity,
    )
    if (deadline === Infinity) return Infinity
    return Math.max(0, ((deadline - this.#delta) * TICK_NS - this.#virtualNs()) / 1e6)
  }
}

/** Beyond 2^63 ticks a Number is as good as never; below 2^53 it is exact. */
function toTicks(value: bigint): number {
  return Number(value)
}
