/**
 * 16550A UART, as found on the `virt` board: byte registers at stride 1, 16-byte FIFOs.
 * Spec: TI PC16550D, section 8 (registers); virt-machine.md section 6.3; virt-vmstate.md section 10.
 * Not modelled: modem lines, break, and the time that sending takes: a byte leaves as soon as the host takes it.
 */
import {
  buffer,
  type CharBackend,
  type Device,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  gatedBackend,
  i32,
  type StateOfVmstate,
  struct,
  timer,
  u8,
  u16,
  u32,
  VmstateMismatchError,
  validate,
} from '@ferryvm/core'
import { z } from 'zod'

const RBR = 0
const THR = 0
const IER = 1
const IIR = 2
const FCR = 2
const LCR = 3
const MCR = 4
const LSR = 5
const MSR = 6
const SCR = 7

const IER_RDI = 0x01
const IER_THRI = 0x02
const IER_RLSI = 0x04
const IER_MSI = 0x08
const IIR_ID = 0x0f
const IIR_NO_INT = 0x01
const IIR_MSI = 0x00
const IIR_THRI = 0x02
const IIR_RDI = 0x04
const IIR_RLSI = 0x06
const IIR_CTI = 0x0c
const IIR_FIFOS = 0xc0
const FCR_ENABLE = 0x01
const FCR_RX_RESET = 0x02
const FCR_TX_RESET = 0x04
const FCR_KEPT = 0xc9
const LCR_DLAB = 0x80
const MCR_DTR = 0x01
const MCR_RTS = 0x02
const MCR_OUT1 = 0x04
const MCR_OUT2 = 0x08
const MCR_LOOP = 0x10
const LSR_DR = 0x01
const LSR_OE = 0x02
const LSR_BI = 0x10
const LSR_ERRORS = 0x1e
const LSR_THRE = 0x20
const LSR_TEMT = 0x40
const MSR_DELTAS = 0x0f
const MSR_CTS = 0x10
const MSR_DSR = 0x20
const MSR_RI = 0x40
const MSR_DCD = 0x80

const FIFO_BYTES = 16
/** Receive trigger level by FCR bits 7:6. */
const TRIGGER_LEVELS = [1, 4, 8, 14]
/** Characters of silence after which data below the trigger level raises an interrupt. */
const TIMEOUT_CHARACTERS = 4
/** Input that a backend delivers although it was told that there is no room; beyond it input is dropped. */
const HOST_QUEUE_BYTES = 1 << 20

const fifo8Vmstate = defineVmstate({
  name: 'Fifo8',
  version: 1,
  fields: {
    data: buffer(FIFO_BYTES),
    head: u32(),
    num: u32(),
    bounds: validate(
      `a FIFO of ${FIFO_BYTES} bytes has its head in 0..${FIFO_BYTES - 1} and at most ${FIFO_BYTES} entries`,
      (s: { head: number; num: number }) => s.head < FIFO_BYTES && s.num <= FIFO_BYTES,
    ),
  },
})
type Fifo8 = StateOfVmstate<typeof fifo8Vmstate>

/** The chip. The section is {@link uart16550Vmstate}, which wraps it, as on the wire. */
const serialVmstate = defineVmstate({
  name: 'serial',
  version: 3,
  minimumVersion: 2,
  fields: {
    /** Divisor latch, DLM:DLL. */
    divider: u16({ since: 2, reset: 12 }),
    /** Receiver buffer while the FIFOs are off. */
    rbr: u8(),
    ier: u8(),
    iir: u8({ reset: IIR_NO_INT }),
    lcr: u8(),
    mcr: u8({ reset: MCR_OUT2 }),
    lsr: u8({ reset: LSR_THRE | LSR_TEMT }),
    msr: u8({ reset: MSR_DCD | MSR_DSR | MSR_CTS }),
    scr: u8(),
    /** FCR as far as it is kept: enable, DMA mode, trigger level. */
    fcr_vmstate: u8({ since: 3 }),
  },
  subsections: {
    'serial/thr_ipending': {
      version: 1,
      fields: {
        /** Latch of the "transmitter holding register empty" interrupt. */
        thr_ipending: i32(),
      },
      needed: (s) => (s.ier & IER_THRI) !== 0 && (s.thr_ipending !== 0) !== ((s.iir & IIR_ID) === IIR_THRI),
    },
    'serial/tsr': {
      version: 1,
      fields: {
        /** Not 0: a byte stands in the shift register and the host does not take it yet. */
        tsr_retry: u32(),
        thr: u8(),
        tsr: u8(),
      },
      needed: (s) => s.tsr_retry !== 0,
    },
    'serial/recv_fifo': {
      version: 1,
      fields: { recv_fifo: struct(fifo8Vmstate) },
      needed: (s) => s.recv_fifo.num > 0,
    },
    'serial/xmit_fifo': {
      version: 1,
      fields: { xmit_fifo: struct(fifo8Vmstate) },
      needed: (s) => s.xmit_fifo.num > 0,
    },
    'serial/fifo_timeout_timer': {
      version: 1,
      fields: { fifo_timeout_timer: timer() },
      needed: (s) => s.fifo_timeout_timer.expireNs >= 0n,
    },
    'serial/timeout_ipending': {
      version: 1,
      fields: { timeout_ipending: i32() },
      needed: (s) => s.timeout_ipending !== 0,
    },
    'serial/poll': {
      version: 1,
      fields: {
        /** Modem lines are polled on host serial ports only, which we do not have. */
        poll_msl: i32({ reset: -1 }),
        modem_status_poll: timer(),
      },
      needed: (s) => s.poll_msl >= 0,
    },
  },
  preLoad(s) {
    s.thr_ipending = -1
    s.tsr_retry = 0
    s.recv_fifo.num = 0
    s.xmit_fifo.num = 0
    s.fifo_timeout_timer.expireNs = -1n
    s.timeout_ipending = 0
    s.poll_msl = -1
  },
  postLoad(s) {
    if (s.thr_ipending === -1) s.thr_ipending = (s.iir & IIR_RLSI) === IIR_THRI ? 1 : 0
    // A sender that knows a byte in the shift register says so by TEMT; the subsection must agree.
    if (((s.lsr & LSR_TEMT) !== 0) !== (s.tsr_retry === 0)) {
      throw new VmstateMismatchError(
        '',
        `LSR.TEMT and the shift register disagree (lsr 0x${s.lsr.toString(16)}, tsr_retry ${s.tsr_retry})`,
      )
    }
  },
})
type SerialState = StateOfVmstate<typeof serialVmstate>

/** Section `serial`. The chip is one member, as the board's wrapper around it has always been described. */
export const uart16550Vmstate = defineVmstate({
  name: 'serial',
  version: 3,
  minimumVersion: 2,
  fields: { serial: struct(serialVmstate) },
})

const isCharBackend = (value: unknown): value is CharBackend =>
  typeof value === 'object' && value !== null && typeof (value as CharBackend).write === 'function'

/** Placement: registers at `at`, interrupt `irq`. */
export const uart16550 = defineDevice({
  type: 'uart16550',
  props: z.object({
    /** Where bytes go and come from. Absent: nowhere. */
    chardev: z.custom<CharBackend>(isCharBackend, 'needs a character backend').optional(),
    /** Bits per second at divisor 1; only the receive timeout depends on it. */
    baudBase: z.coerce.number().int().positive().default(399_193),
  }),
  migration: uart16550Vmstate,
  realize: (ctx, { chardev, baudBase }) =>
    new Uart16550(ctx, chardev && gatedBackend(chardev, ctx.machine.output), baudBase),
})

class Uart16550 implements Device {
  readonly #ctx: DeviceContext<StateOfVmstate<typeof uart16550Vmstate>>
  readonly #chardev: CharBackend | undefined
  readonly #baudBase: number
  readonly #line: { set(level: boolean): void }
  readonly #input: Disposable | undefined
  /** Input for which there was no room; not guest state, and so stays with this process. */
  readonly #hostQueue: Uint8Array[] = []
  #hostQueued = 0
  /** The backend has not settled the last write. */
  #busy = false
  /** Between quiesce and resume what is not sent yet belongs to whoever loads our state; sent here it would come twice. */
  #quiesced = false

  constructor(
    ctx: DeviceContext<StateOfVmstate<typeof uart16550Vmstate>>,
    chardev: CharBackend | undefined,
    baudBase: number,
  ) {
    this.#ctx = ctx
    this.#chardev = chardev
    this.#baudBase = baudBase
    this.#line = ctx.irq()
    ctx.mmio(8, {
      read: (offset) => this.#read(offset),
      write: (offset, _bytes, value) => this.#write(offset, value & 0xff),
      read64: (offset) => BigInt(this.#read(offset)),
      write64: (offset, value) => this.#write(offset, Number(value & 0xffn)),
    })
    this.#input = chardev?.onInput((bytes) => this.#hostInput(bytes))
  }

  get #s(): SerialState {
    return this.#ctx.state.serial
  }

  reset(): void {
    const s = this.#s
    const fresh = serialVmstate.createState()
    // The timer stays the same object: the clock knows it.
    const { fifo_timeout_timer, modem_status_poll } = s
    Object.assign(s, fresh, { fifo_timeout_timer, modem_status_poll })
    this.#armTimeout(-1n)
    this.#updateIrq()
    this.#pumpInput()
  }

  async quiesce(): Promise<void> {
    this.#quiesced = true
  }

  resume(): void {
    const s = this.#s
    this.#quiesced = false
    if (s.fifo_timeout_timer.expireNs >= 0n) {
      // After a guest reboot the sender's virtual time had an offset that the stream does not carry.
      const latest = this.#ctx.clock.ns + this.#timeoutNs()
      if (s.fifo_timeout_timer.expireNs > latest) s.fifo_timeout_timer.expireNs = latest
      this.#armTimeout(s.fifo_timeout_timer.expireNs)
    }
    this.#transmit()
    this.#pumpInput()
  }

  unrealize(): void {
    this.#quiesced = true
    this.#input?.[Symbol.dispose]()
    this.#armTimeout(-1n)
  }

  describe(): string {
    const s = this.#s
    const hex = (value: number) => value.toString(16).padStart(2, '0')
    return `ier=${hex(s.ier)} iir=${hex(s.iir)} lcr=${hex(s.lcr)} mcr=${hex(s.mcr)} lsr=${hex(s.lsr)} rx=${s.recv_fifo.num} tx=${s.xmit_fifo.num}`
  }

  #read(offset: number): number {
    const s = this.#s
    switch (offset) {
      case RBR:
        return s.lcr & LCR_DLAB ? s.divider & 0xff : this.#readRbr()
      case IER:
        return s.lcr & LCR_DLAB ? s.divider >> 8 : s.ier
      case IIR: {
        const value = s.iir
        if ((value & IIR_ID) === IIR_THRI) {
          s.thr_ipending = 0
          this.#updateIrq()
        }
        return value
      }
      case LCR:
        return s.lcr
      case MCR:
        return s.mcr
      case LSR: {
        const value = s.lsr
        if (value & (LSR_OE | LSR_BI)) {
          s.lsr &= ~(LSR_OE | LSR_BI)
          this.#updateIrq()
        }
        return value
      }
      case MSR: {
        if (s.mcr & MCR_LOOP) {
          // The modem outputs are wired to the inputs.
          const looped = [
            [MCR_DTR, MSR_DSR],
            [MCR_RTS, MSR_CTS],
            [MCR_OUT1, MSR_RI],
            [MCR_OUT2, MSR_DCD],
          ]
          return looped.reduce((msr, [out, into]) => (s.mcr & out! ? msr | into! : msr), 0)
        }
        const value = s.msr
        if (value & MSR_DELTAS) {
          s.msr &= ~MSR_DELTAS
          this.#updateIrq()
        }
        return value
      }
      case SCR:
        return s.scr
      default:
        return 0
    }
  }

  #write(offset: number, value: number): void {
    const s = this.#s
    switch (offset) {
      case THR:
        if (s.lcr & LCR_DLAB) s.divider = (s.divider & 0xff00) | value
        else this.#writeThr(value)
        return
      case IER:
        if (s.lcr & LCR_DLAB) {
          s.divider = (s.divider & 0xff) | (value << 8)
          return
        }
        if (value & ~s.ier & IER_THRI && s.lsr & LSR_THRE) s.thr_ipending = 1
        s.ier = value & 0x0f
        this.#updateIrq()
        return
      case FCR:
        this.#writeFcr(value)
        return
      case LCR:
        s.lcr = value
        return
      case MCR:
        s.mcr = value & 0x1f
        this.#pumpInput()
        return
      case SCR:
        s.scr = value
        return
      case LSR:
      case MSR:
        return
    }
  }

  #writeFcr(written: number): void {
    const s = this.#s
    let value = written
    if ((value ^ s.fcr_vmstate) & FCR_ENABLE) value |= FCR_RX_RESET | FCR_TX_RESET
    if (value & FCR_RX_RESET) {
      s.recv_fifo.num = 0
      s.recv_fifo.head = 0
      s.lsr &= ~(LSR_DR | LSR_BI)
      s.timeout_ipending = 0
      this.#armTimeout(-1n)
    }
    if (value & FCR_TX_RESET) {
      s.xmit_fifo.num = 0
      s.xmit_fifo.head = 0
      s.lsr |= LSR_THRE
      s.thr_ipending = 1
    }
    s.fcr_vmstate = value & FCR_KEPT
    s.iir = (s.iir & IIR_ID) | (this.#fifos ? IIR_FIFOS : 0)
    this.#updateIrq()
    this.#pumpInput()
  }

  get #fifos(): boolean {
    return (this.#s.fcr_vmstate & FCR_ENABLE) !== 0
  }

  get #trigger(): number {
    return TRIGGER_LEVELS[this.#s.fcr_vmstate >> 6]!
  }

  // ── transmit ──

  #writeThr(value: number): void {
    const s = this.#s
    if (this.#fifos) {
      // A guest that ignores THRE overruns the FIFO; as in the chip, the newest byte is the one that is lost.
      if (s.xmit_fifo.num < FIFO_BYTES) push(s.xmit_fifo, value)
      else this.#ctx.log.guestError('uart: transmit FIFO overrun')
    } else s.thr = value
    s.thr_ipending = 0
    s.lsr &= ~LSR_THRE
    if (s.tsr_retry === 0) s.lsr &= ~LSR_TEMT
    this.#updateIrq()
    this.#transmit()
  }

  /** Moves bytes from the holding register or FIFO through the shift register to the host until the host is busy. */
  #transmit(): void {
    const s = this.#s
    if (this.#busy || this.#quiesced) {
      this.#fillShiftRegister()
      return
    }
    for (;;) {
      if (s.tsr_retry === 0 && !this.#fillShiftRegister()) return
      s.tsr_retry = 0
      const sent = this.#send(s.tsr)
      if ((s.lsr & LSR_THRE) !== 0) s.lsr |= LSR_TEMT
      if (sent) {
        this.#busy = true
        const done = () => {
          this.#busy = false
          if (!this.#quiesced) this.#transmit()
        }
        sent.then(done, (cause) => {
          this.#ctx.log.warn('uart: the character backend failed', { cause })
          done()
        })
        this.#fillShiftRegister()
        return
      }
    }
  }

  /** @returns whether the shift register now holds a byte that has to go out */
  #fillShiftRegister(): boolean {
    const s = this.#s
    if (s.tsr_retry !== 0) return true
    if (s.lsr & LSR_THRE) return false
    if (this.#fifos) {
      if (s.xmit_fifo.num === 0) {
        s.lsr |= LSR_THRE | LSR_TEMT
        return false
      }
      s.tsr = pop(s.xmit_fifo)
      if (s.xmit_fifo.num === 0) s.lsr |= LSR_THRE
    } else {
      s.tsr = s.thr
      s.lsr |= LSR_THRE
    }
    s.tsr_retry = 1
    s.lsr &= ~LSR_TEMT
    if (s.lsr & LSR_THRE && !s.thr_ipending) {
      s.thr_ipending = 1
      this.#updateIrq()
    }
    return true
  }

  #send(value: number): void | Promise<void> {
    if (this.#s.mcr & MCR_LOOP) return this.#receive(value)
    try {
      return this.#chardev?.write(Uint8Array.of(value))
    } catch (cause) {
      this.#ctx.log.warn('uart: the character backend failed', { cause })
    }
  }

  // ── receive ──

  #readRbr(): number {
    const s = this.#s
    let value: number
    if (this.#fifos) {
      value = s.recv_fifo.num > 0 ? pop(s.recv_fifo) : 0
      if (s.recv_fifo.num === 0) {
        s.lsr &= ~(LSR_DR | LSR_BI)
        this.#armTimeout(-1n)
      } else this.#armTimeout(this.#ctx.clock.ns + this.#timeoutNs())
      s.timeout_ipending = 0
    } else {
      value = s.rbr
      s.lsr &= ~(LSR_DR | LSR_BI)
    }
    this.#updateIrq()
    if (!(s.mcr & MCR_LOOP)) this.#pumpInput()
    return value
  }

  #hostInput(bytes: Uint8Array): void {
    if (this.#hostQueued + bytes.length > HOST_QUEUE_BYTES) {
      this.#ctx.log.warn('uart: input dropped, the guest does not read', { bytes: bytes.length })
      return
    }
    if (bytes.length === 0) return
    this.#hostQueue.push(bytes.slice())
    this.#hostQueued += bytes.length
    this.#pumpInput()
  }

  /** Gives queued input to the guest as far as there is room. Also while the machine is stopped. */
  #pumpInput(): void {
    const s = this.#s
    if (this.#hostQueued === 0) return
    while (this.#hostQueued > 0 && !(s.mcr & MCR_LOOP)) {
      if (this.#fifos ? s.recv_fifo.num === FIFO_BYTES : s.lsr & LSR_DR) break
      const first = this.#hostQueue[0]!
      this.#receive(first[0]!)
      this.#hostQueued--
      if (first.length === 1) this.#hostQueue.shift()
      else this.#hostQueue[0] = first.subarray(1)
    }
    this.#chardev?.setReadable?.(this.#hostQueued === 0)
  }

  #receive(value: number): void {
    const s = this.#s
    if (this.#fifos) {
      if (s.recv_fifo.num < FIFO_BYTES) push(s.recv_fifo, value)
      else s.lsr |= LSR_OE
      s.lsr |= LSR_DR
      this.#armTimeout(this.#ctx.clock.ns + this.#timeoutNs())
    } else {
      if (s.lsr & LSR_DR) s.lsr |= LSR_OE
      s.rbr = value
      s.lsr |= LSR_DR
    }
    this.#updateIrq()
  }

  #timeoutNs(): bigint {
    const { lcr, divider } = this.#s
    const bits = 1 + 5 + (lcr & 3) + (lcr & 8 ? 1 : 0) + (lcr & 4 ? 2 : 1)
    const seconds = (bits * Math.max(divider, 1)) / this.#baudBase
    return BigInt(Math.ceil(TIMEOUT_CHARACTERS * seconds * 1e9))
  }

  /** @param expireNs -1n: never */
  #armTimeout(expireNs: bigint): void {
    const { fifo_timeout_timer } = this.#s
    if (expireNs < 0n && fifo_timeout_timer.expireNs < 0n) return
    fifo_timeout_timer.expireNs = expireNs
    this.#ctx.clock.at(fifo_timeout_timer, () => {
      if (this.#s.recv_fifo.num === 0) return
      this.#s.timeout_ipending = 1
      this.#updateIrq()
    })
  }

  /** Recomputes IIR and drives the line; a level that stays high is driven again, which a PLIC takes as a new request. */
  #updateIrq(): void {
    const s = this.#s
    let id = IIR_NO_INT
    if (s.ier & IER_RLSI && s.lsr & LSR_ERRORS) id = IIR_RLSI
    else if (s.ier & IER_RDI && s.timeout_ipending) id = IIR_CTI
    else if (s.ier & IER_RDI && s.lsr & LSR_DR && (!this.#fifos || s.recv_fifo.num >= this.#trigger)) id = IIR_RDI
    else if (s.ier & IER_THRI && s.thr_ipending) id = IIR_THRI
    else if (s.ier & IER_MSI && s.msr & MSR_DELTAS) id = IIR_MSI
    s.iir = (s.iir & ~IIR_ID) | id
    this.#line.set(id !== IIR_NO_INT)
  }
}

function push(fifo: Fifo8, value: number): void {
  fifo.data[(fifo.head + fifo.num) % FIFO_BYTES] = value
  fifo.num++
}

function pop(fifo: Fifo8): number {
  const value = fifo.data[fifo.head]!
  fifo.head = (fifo.head + 1) % FIFO_BYTES
  fifo.num--
  return value
}
