/**
 * Goldfish real-time clock: wall time in ns and one alarm. Both run on the host's clock, also while the machine is stopped.
 * Spec: virt-machine.md section 6.4; virt-vmstate.md section 11.
 */
import {
  type Device,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  type IrqLine,
  type StateOfVmstate,
  u32,
  u64,
} from '@ferryvm/core'
import { z } from 'zod'

const TIME_LOW = 0x00
const TIME_HIGH = 0x04
const ALARM_LOW = 0x08
const ALARM_HIGH = 0x0c
const IRQ_ENABLED = 0x10
const CLEAR_ALARM = 0x14
const ALARM_STATUS = 0x18
const CLEAR_INTERRUPT = 0x1c
const REGION_BYTES = 0x24

const LOW = 0xffff_ffffn
const MAX_TIMEOUT_MS = 2 ** 31 - 1

export const goldfishRtcVmstate = defineVmstate({
  name: 'goldfish_rtc',
  version: 3,
  fields: {
    /** Before version 3: offset to the sender's virtual clock. Zero since. */
    tick_offset_vmstate: u64(),
    /** Guest time in ns at which the alarm fires. */
    alarm_next: u64(),
    alarm_running: u32(),
    irq_pending: u32(),
    irq_enabled: u32(),
    /** Latched by a read of TIME_LOW. */
    time_high: u32(),
    /** Guest time = host time + this, modulo 2^64. */
    tick_offset: u64(),
  },
  preSave(s) {
    s.tick_offset_vmstate = 0n
  },
})
type RtcState = StateOfVmstate<typeof goldfishRtcVmstate>

const hostNow = (): bigint => BigInt(Date.now()) * 1_000_000n

/** Placement: registers at `at`, interrupt `irq`. */
export const goldfishRtc = defineDevice({
  type: 'goldfish-rtc',
  props: z.object({
    /** Host time in ns since 1970; for tests. */
    now: z.custom<() => bigint>((value) => typeof value === 'function', 'needs a function').default(() => hostNow),
  }),
  migration: goldfishRtcVmstate,
  realize: (ctx, { now }) => new GoldfishRtc(ctx, now),
})

class GoldfishRtc implements Device {
  readonly #state: RtcState
  readonly #now: () => bigint
  readonly #line: IrqLine
  #timeout: ReturnType<typeof setTimeout> | undefined

  constructor(ctx: DeviceContext<RtcState>, now: () => bigint) {
    this.#state = ctx.state
    this.#now = now
    this.#line = ctx.irq()
    ctx.mmio(REGION_BYTES, {
      sizes: [4],
      read: (offset) => this.#read(offset),
      write: (offset, _bytes, value) => this.#write(offset, BigInt(value >>> 0)),
    })
  }

  /** The offset is what a guest set the clock by; it stays. */
  reset(): void {
    const s = this.#state
    s.alarm_next = 0n
    s.alarm_running = 0
    s.irq_pending = 0
    s.irq_enabled = 0
    clearTimeout(this.#timeout)
    this.#updateIrq()
  }

  resume(): void {
    if (this.#state.alarm_running) this.#arm()
  }

  unrealize(): void {
    clearTimeout(this.#timeout)
  }

  describe(): string {
    const s = this.#state
    return `time=${this.#time} alarm=${s.alarm_running ? s.alarm_next : 'off'} pending=${s.irq_pending} enabled=${s.irq_enabled}`
  }

  get #time(): bigint {
    return BigInt.asUintN(64, this.#now() + this.#state.tick_offset)
  }

  #setTime(time: bigint): void {
    this.#state.tick_offset = BigInt.asUintN(64, time - this.#now())
  }

  #read(offset: number): number {
    const s = this.#state
    switch (offset) {
      case TIME_LOW: {
        const time = this.#time
        s.time_high = Number(time >> 32n)
        return Number(time & LOW)
      }
      case TIME_HIGH:
        return s.time_high
      case ALARM_LOW:
        return Number(s.alarm_next & LOW)
      case ALARM_HIGH:
        return Number(s.alarm_next >> 32n)
      case IRQ_ENABLED:
        return s.irq_enabled
      case ALARM_STATUS:
        return s.alarm_running
      default:
        return 0
    }
  }

  #write(offset: number, value: bigint): void {
    const s = this.#state
    switch (offset) {
      case TIME_LOW:
        this.#setTime((this.#time & ~LOW) | value)
        break
      case TIME_HIGH:
        this.#setTime((this.#time & LOW) | (value << 32n))
        break
      case ALARM_LOW:
        s.alarm_next = (s.alarm_next & ~LOW) | value
        this.#arm()
        break
      case ALARM_HIGH:
        s.alarm_next = (s.alarm_next & LOW) | (value << 32n)
        break
      case IRQ_ENABLED:
        s.irq_enabled = Number(value & 1n)
        this.#updateIrq()
        break
      case CLEAR_ALARM:
        s.alarm_running = 0
        clearTimeout(this.#timeout)
        break
      case CLEAR_INTERRUPT:
        s.irq_pending = 0
        this.#updateIrq()
        break
    }
  }

  #arm(): void {
    const s = this.#state
    clearTimeout(this.#timeout)
    const delayNs = s.alarm_next - this.#time
    if (delayNs <= 0n) {
      s.alarm_running = 0
      s.irq_pending = 1
      this.#updateIrq()
      return
    }
    s.alarm_running = 1
    const delayMs = Math.min(Math.ceil(Number(delayNs) / 1e6), MAX_TIMEOUT_MS)
    this.#timeout = setTimeout(() => this.#arm(), delayMs)
    // An alarm alone does not keep the process alive. Browsers have no handles.
    ;(this.#timeout as { unref?: () => void }).unref?.()
  }

  #updateIrq(): void {
    const { irq_pending, irq_enabled } = this.#state
    this.#line.set((irq_pending & irq_enabled) !== 0)
  }
}
