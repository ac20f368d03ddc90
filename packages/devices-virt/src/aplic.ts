/**
 * Advanced platform-level interrupt controller: two domains, of machine level and, below it, of supervisor level. Without an
 * IMSIC they drive the harts' external interrupts, with one they send messages.
 * Spec: RISC-V AIA 1.0, chapter "Advanced Platform-Level Interrupt Controller (APLIC)"; virt-vmstate.md section 7.
 */
import {
  type Device,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  type IrqLine,
  registersItself,
  u32,
  u32Array,
  type Vmstate,
} from '@ferryvm/core'
import { z } from 'zod'
import { swappedWord } from './swapped-word.ts'

/** Wired inputs, 1 to 96. */
export const APLIC_SOURCES = 96
const NUMBERS = APLIC_SOURCES + 1
const WORDS = Math.ceil(NUMBERS / 32)
/** Bits of a priority: lower is more urgent, 0 does not exist. */
const IPRIO_MASK = 7
/** Where they are in a target. */
const IPRIO_FIELD = 0xff
/** Bits of mip that the domains drive. */
const MIP_BITS = { M: 11, S: 9 } as const

const DOMAINCFG = 0
const SOURCECFG = 0x4
const MMSICFGADDR = 0x1bc0
const MMSICFGADDRH = 0x1bc4
const SMSICFGADDR = 0x1bc8
const SMSICFGADDRH = 0x1bcc
const SETIP = 0x1c00
const SETIPNUM = 0x1cdc
const IN_CLRIP = 0x1d00
const CLRIPNUM = 0x1ddc
const SETIE = 0x1e00
const SETIENUM = 0x1edc
const CLRIE = 0x1f00
const CLRIENUM = 0x1fdc
const SETIPNUM_LE = 0x2000
const SETIPNUM_BE = 0x2004
const GENMSI = 0x3000
const TARGET = 0x3004
const IDC = 0x4000
const IDC_BYTES = 32
const IDELIVERY = 0
const IFORCE = 4
const ITHRESHOLD = 8
const TOPI = 0x18
const CLAIMI = 0x1c
const ALIGN = 0x4000

const DOMAINCFG_FIXED = 0x8000_0000
const DOMAINCFG_IE = 1 << 8
/** Messages instead of wires to the harts. */
const DOMAINCFG_DM = 1 << 2
const SOURCECFG_D = 1 << 10
const CHILD_MASK = 0x3ff
const SM_MASK = 7
/** Source modes. */
const SM = { inactive: 0, detached: 1, edgeRise: 4, edgeFall: 5, levelHigh: 6, levelLow: 7 } as const
const HART_SHIFT = 18
const HART_MASK = 0x3fff
const GUEST_SHIFT = 12
const GUEST_MASK = 0x3f
const EIID_MASK = 0x7ff
/** Of mmsicfgaddrh: it and the others cannot be changed any more. */
const LOCK = 2 ** 31
/** Of both registers: the reference keeps fields of smsicfgaddrh that mean nothing there. */
const XMSICFGADDRH_MASK = 0x9f77_ffff
/** Bits of a source's state on the wire. */
const PENDING = 1
const ENABLED = 2
const READY = PENDING | ENABLED
const INPUT = 1 << 8

export interface AplicState {
  domaincfg: number
  mmsicfgaddr: number
  mmsicfgaddrH: number
  smsicfgaddr: number
  smsicfgaddrH: number
  genmsi: number
  /** Both are in version 2 only. */
  kvm_msicfgaddr: number
  kvm_msicfgaddrH: number
  sourcecfg: Uint32Array
  state: Uint32Array
  target: Uint32Array
  /** These three are there only with wires to the harts. */
  idelivery: Uint32Array
  iforce: Uint32Array
  ithreshold: Uint32Array
}
/** 1: stock 7.2. 2: 10.0, which does not take version 1. */
export type AplicVersion = 1 | 2

/** Only used where a kernel module takes the place of the device. */
const kvm = { kvm_msicfgaddr: u32({ since: 2 }), kvm_msicfgaddrH: u32({ since: 2 }) }

/** @param harts that it has wires to: none where it sends messages @param version that is sent, and the last that is read */
export const aplicVmstate = (harts: number, version: AplicVersion = 2): Vmstate<AplicState> =>
  defineVmstate({
    name: 'riscv_aplic',
    version,
    minimumVersion: 1,
    fields: {
      domaincfg: u32(),
      mmsicfgaddr: u32(),
      mmsicfgaddrH: u32(),
      smsicfgaddr: u32(),
      smsicfgaddrH: u32(),
      genmsi: u32(),
      ...((version === 2 ? kvm : {}) as typeof kvm),
      sourcecfg: u32Array(NUMBERS),
      /** Bit 0 pending, bit 1 enabled, bit 8 level of the input. */
      state: u32Array(NUMBERS),
      target: u32Array(NUMBERS),
      ...((harts > 0 ? wires(harts) : {}) as ReturnType<typeof wires>),
    },
  })
const wires = (harts: number) => ({
  idelivery: u32Array(harts),
  iforce: u32Array(harts),
  ithreshold: u32Array(harts),
})

/** Room of a domain's registers in memory. */
export const aplicBytes = (harts: number): number => Math.ceil((IDC + harts * IDC_BYTES) / ALIGN) * ALIGN

/**
 * Becomes the machine's interrupt controller: `irq` of a placement is a source number, 1 to 96. The machine-level domain is at
 * the placement, the one of supervisor level at `supervisorAt`. Sections: machine level, supervisor level.
 */
export const aplic = defineDevice({
  type: 'aplic',
  props: z.object({
    supervisorAt: z.number(),
    /** Sends messages to an IMSIC. */
    messages: z.boolean(),
    /** Version of the sections that are sent. */
    version: z.union([z.literal(1), z.literal(2)]).default(2),
  }),
  migration: registersItself,
  realize(ctx, { supervisorAt, messages, version }): Device {
    const inputs = new Uint8Array(NUMBERS)
    const machine = new Domain(ctx, { level: 'M', inputs, messages, version })
    const supervisor = new Domain(ctx, { level: 'S', inputs, messages, version, parent: machine, at: supervisorAt })
    const domains = [machine, supervisor]
    ctx.machine.provideInterruptController((source) => {
      if (!(source >= 1 && source < NUMBERS))
        throw new RangeError(`APLIC source ${source} is not in 1..${APLIC_SOURCES}`)
      return {
        set(level) {
          if (inputs[source] === (level ? 1 : 0)) return
          const before = domains.map((domain) => domain.rectified(source))
          inputs[source] = level ? 1 : 0
          for (const [i, domain] of domains.entries()) domain.inputChanged(source, before[i]!)
        },
      }
    })
    return {
      reset() {
        for (const domain of domains) domain.reset()
      },
      resume() {
        for (const domain of domains) domain.update()
      },
      describe: () => domains.map((domain) => domain.describe()).join('\n'),
    }
  },
})

interface DomainParts {
  readonly level: keyof typeof MIP_BITS
  /** Levels of the wires, by source; both domains see the same. */
  readonly inputs: Uint8Array
  readonly messages: boolean
  readonly version: AplicVersion
  /** The domain that lends this one its sources. */
  readonly parent?: Domain
  readonly at?: number
}

class Domain {
  readonly #ctx: DeviceContext<undefined>
  readonly #parts: DomainParts
  readonly #state: AplicState
  readonly #outputs: readonly IrqLine[]

  constructor(ctx: DeviceContext<undefined>, parts: DomainParts) {
    this.#ctx = ctx
    this.#parts = parts
    const { harts } = ctx.machine
    const { level, messages, version, at } = parts
    this.#outputs = messages ? [] : harts.map((hart) => hart.line(MIP_BITS[level]))
    const table = (v: AplicVersion) => ({
      ...aplicVmstate(this.#outputs.length, v),
      preSave: () => this.#saveInputs(),
      postLoad: () => this.#loadInputs(),
    })
    const vmstate = table(version)
    this.#state = table(2).createState()
    this.#state.target.fill(messages ? 0 : 1)
    // Version 1 has all of 2 that matters.
    const alternatives = version === 1 ? [{ vmstate: table(2), state: this.#state }] : []
    ctx.registerVmstate(vmstate, this.#state, { alternatives })
    ctx.mmio(
      aplicBytes(harts.length),
      {
        sizes: [4],
        read: (offset) => this.#read(offset) >>> 0,
        write: (offset, _bytes, value) => this.#write(offset, value >>> 0),
      },
      { at },
    )
  }

  reset(): void {
    const s = this.#state
    for (const words of [s.sourcecfg, s.state, s.idelivery, s.iforce, s.ithreshold]) words?.fill(0)
    // Hart 0; priority 1 where there is one, or else identity 0, which is none.
    s.target.fill(this.#parts.messages ? 0 : 1)
    s.domaincfg = s.mmsicfgaddr = s.mmsicfgaddrH = s.smsicfgaddr = s.smsicfgaddrH = s.genmsi = 0
    this.update()
  }

  describe(): string {
    const list = (bit: number) => [...this.#state.state.keys()].filter((i) => this.#state.state[i]! & bit).join(' ')
    return `${this.#parts.level} level: pending ${list(PENDING) || 'none'}; enabled ${list(ENABLED) || 'none'}`
  }

  /** Does the domain have the source? Machine level has those that it has not given away. */
  has(source: number): boolean {
    if (source < 1 || source >= NUMBERS) return false
    const { parent } = this.#parts
    return parent ? parent.#delegates(source) : !this.#delegates(source)
  }

  /** The only child there is has number 0. */
  #delegates(source: number): boolean {
    const config = this.#state.sourcecfg[source]!
    return (config & SOURCECFG_D) !== 0 && (config & CHILD_MASK) === 0
  }

  #mode(source: number): number {
    return this.has(source) ? this.#state.sourcecfg[source]! & SM_MASK : SM.inactive
  }

  /** The input as the source's mode understands it. Spec: AIA, "Source configurations". */
  rectified(source: number): boolean {
    const high = this.#parts.inputs[source] !== 0
    switch (this.#mode(source)) {
      case SM.edgeRise:
      case SM.levelHigh:
        return high
      case SM.edgeFall:
      case SM.levelLow:
        return !high
      default:
        return false
    }
  }

  #isLevel(source: number): boolean {
    return this.#mode(source) >= SM.levelHigh
  }

  /** A wire has changed. @param before what {@link rectified} said */
  inputChanged(source: number, before: boolean): void {
    if (!this.has(source)) return
    const now = this.rectified(source)
    if (now === before) return
    if (now) this.#setPending(source, true)
    else if (this.#isLevel(source)) this.#setPending(source, false)
    this.#deliver(source)
  }

  #setPending(source: number, pending: boolean): void {
    if (pending) this.#state.state[source]! |= PENDING
    else this.#state.state[source]! &= ~PENDING
  }

  /** Software wants the source pending, or not. Spec: AIA, "Interrupt-pending bits". */
  #requestPending(source: number, pending: boolean): void {
    const mode = this.#mode(source)
    if (mode === SM.inactive || !this.has(source)) return
    if (this.#isLevel(source)) {
      // The bit shows the wire. With messages it is cleared by sending one, and can be set again while the wire asks.
      if (!this.#parts.messages || (pending && !this.rectified(source))) return
    }
    this.#setPending(source, pending)
  }

  #requestEnabled(source: number, enabled: boolean): void {
    if (this.#mode(source) === SM.inactive) return
    if (enabled) this.#state.state[source]! |= ENABLED
    else this.#state.state[source]! &= ~ENABLED
  }

  #each(word: number, value: number, act: (source: number) => void): void {
    for (let bit = 0; bit < 32; bit++) if (value & (1 << bit) && this.has(32 * word + bit)) act(32 * word + bit)
  }

  #bits(word: number, test: (source: number) => boolean): number {
    let bits = 0
    for (let bit = 0; bit < 32; bit++) {
      const source = 32 * word + bit
      if (this.has(source) && test(source)) bits |= 1 << bit
    }
    return bits
  }

  #read(offset: number): number {
    const s = this.#state
    const word = (offset & 0x7f) >> 2
    const source = (offset - TARGET) / 4 + 1
    if (offset % 4 !== 0) return 0
    if (offset === DOMAINCFG) return DOMAINCFG_FIXED | s.domaincfg | (this.#parts.messages ? DOMAINCFG_DM : 0)
    if (offset >= SOURCECFG && offset < SOURCECFG + 4 * APLIC_SOURCES) return this.#sourcecfg(offset / 4)
    if (offset >= MMSICFGADDR && offset <= SMSICFGADDRH) return this.#messageAddress(offset)
    if (offset >= SETIP && offset < SETIP + 4 * WORDS) return this.#bits(word, (i) => (s.state[i]! & PENDING) !== 0)
    if (offset >= IN_CLRIP && offset < IN_CLRIP + 4 * WORDS) return this.#bits(word, (i) => this.rectified(i))
    if (offset >= SETIE && offset < SETIE + 4 * WORDS) return this.#bits(word, (i) => (s.state[i]! & ENABLED) !== 0)
    if (offset === GENMSI) return this.#parts.messages ? s.genmsi : 0
    if (offset >= TARGET && source < NUMBERS) return this.has(source) ? s.target[source]! : 0
    const { idc, register } = this.#idcRegister(offset)
    if (idc === undefined) return 0
    if (register === IDELIVERY) return s.idelivery[idc]!
    if (register === IFORCE) return s.iforce[idc]!
    if (register === ITHRESHOLD) return s.ithreshold[idc]!
    if (register === TOPI) return this.#topi(idc)
    return register === CLAIMI ? this.#claimi(idc) : 0
  }

  #write(offset: number, value: number): void {
    const s = this.#state
    const word = (offset & 0x7f) >> 2
    const source = (offset - TARGET) / 4 + 1
    const within = (base: number) => offset >= base && offset < base + 4 * WORDS
    if (offset % 4 !== 0) return
    if (offset === DOMAINCFG) s.domaincfg = value & DOMAINCFG_IE
    else if (offset >= SOURCECFG && offset < SOURCECFG + 4 * APLIC_SOURCES) this.#configure(offset / 4, value)
    else if (offset >= MMSICFGADDR && offset <= SMSICFGADDRH) this.#setMessageAddress(offset, value)
    else if (within(SETIP)) this.#each(word, value, (i) => this.#requestPending(i, true))
    else if (offset === SETIPNUM) this.#requestPending(value, true)
    else if (within(IN_CLRIP)) this.#each(word, value, (i) => this.#requestPending(i, false))
    else if (offset === CLRIPNUM) this.#requestPending(value, false)
    else if (within(SETIE)) this.#each(word, value, (i) => this.#requestEnabled(i, true))
    else if (offset === SETIENUM) this.#requestEnabled(value, true)
    else if (within(CLRIE)) this.#each(word, value, (i) => this.#requestEnabled(i, false))
    else if (offset === CLRIENUM) this.#requestEnabled(value, false)
    else if (offset === SETIPNUM_LE) this.#requestPending(value, true)
    else if (offset === SETIPNUM_BE) this.#requestPending(swappedWord(value), true)
    else if (offset === GENMSI) this.#generate(value)
    else if (offset >= TARGET && source < NUMBERS) this.#setTarget(source, value)
    else this.#writeIdc(offset, value)
    this.update()
  }

  #sourcecfg(source: number): number {
    const { parent } = this.#parts
    return parent && !this.has(source) ? 0 : this.#state.sourcecfg[source]!
  }

  #configure(source: number, value: number): void {
    const s = this.#state
    const { parent } = this.#parts
    if (parent && !this.has(source)) return
    const delegated = !parent && (value & SOURCECFG_D) !== 0
    const mode = value & SM_MASK
    if (delegated) s.sourcecfg[source] = value & (SOURCECFG_D | CHILD_MASK)
    else s.sourcecfg[source] = value & SOURCECFG_D || (mode > SM.detached && mode < SM.edgeRise) ? 0 : mode
    if (delegated || s.sourcecfg[source] === SM.inactive) s.state[source]! &= ~READY
    else if (this.rectified(source)) this.#setPending(source, true)
    else if (!this.#parts.messages && this.#isLevel(source)) this.#setPending(source, false)
  }

  #setTarget(source: number, value: number): void {
    if (!this.has(source)) return
    const priority = value & IPRIO_MASK || 1
    this.#state.target[source] = this.#parts.messages ? value : ((value & ~IPRIO_FIELD) | priority) >>> 0
  }

  /** Only the root has them. Spec: AIA, "Machine MSI address configuration". */
  #messageAddress(offset: number): number {
    const s = this.#state
    if (this.#parts.parent || !this.#parts.messages) return 0
    if (offset === MMSICFGADDR) return s.mmsicfgaddr
    if (offset === MMSICFGADDRH) return s.mmsicfgaddrH
    return offset === SMSICFGADDR ? s.smsicfgaddr : s.smsicfgaddrH
  }

  #setMessageAddress(offset: number, value: number): void {
    const s = this.#state
    if (this.#parts.parent || !this.#parts.messages || s.mmsicfgaddrH & LOCK) return
    if (offset === MMSICFGADDR) s.mmsicfgaddr = value
    else if (offset === MMSICFGADDRH) s.mmsicfgaddrH = (value & XMSICFGADDRH_MASK) >>> 0
    else if (offset === SMSICFGADDR) s.smsicfgaddr = value
    else s.smsicfgaddrH = (value & XMSICFGADDRH_MASK) >>> 0
  }

  /** A message that software asks for. It is sent at once, so nobody ever sees it busy. */
  #generate(value: number): void {
    if (!this.#parts.messages) return
    this.#state.genmsi = (value & ((HART_MASK << HART_SHIFT) | EIID_MASK)) >>> 0
    this.#send(value >>> HART_SHIFT, 0, value & EIID_MASK)
  }

  /** Sends what is to be sent, or sets the outputs. */
  update(): void {
    if (this.#parts.messages) for (let source = 1; source < NUMBERS; source++) this.#deliver(source)
    else for (const idc of this.#outputs.keys()) this.#updateOutput(idc)
  }

  #deliver(source: number): void {
    const s = this.#state
    const target = s.target[source]!
    if (!this.#parts.messages) {
      this.#updateOutput(target >>> HART_SHIFT)
      return
    }
    if (!(s.domaincfg & DOMAINCFG_IE) || (s.state[source]! & READY) !== READY) return
    this.#setPending(source, false)
    this.#send(target >>> HART_SHIFT, (target >>> GUEST_SHIFT) & GUEST_MASK, target & EIID_MASK)
  }

  /** Spec: AIA, "Supervisor MSI address configuration": page number of the interrupt file that a message goes to. */
  #send(hart: number, guest: number, identity: number): void {
    const { parent } = this.#parts
    const root = (parent ?? this).#state
    const layout = root.mmsicfgaddrH
    const base = parent
      ? (root.smsicfgaddrH & 0xfff) * 2 ** 32 + root.smsicfgaddr
      : (layout & 0xfff) * 2 ** 32 + root.mmsicfgaddr
    const lowBits = (layout >>> 12) & 15
    const groupBits = (layout >>> 16) & 7
    const lowShift = parent ? (root.smsicfgaddrH >>> 20) & 7 : (layout >>> 20) & 7
    const groupShift = ((layout >>> 24) & 31) + 12
    const low = hart & (2 ** lowBits - 1)
    const group = (hart >>> lowBits) & (2 ** groupBits - 1)
    const page = base + group * 2 ** groupShift + low * 2 ** lowShift + (parent ? guest : 0)
    const message = new Uint8Array(4)
    new DataView(message.buffer).setUint32(0, identity, true)
    const address = page * 2 ** 12
    if (!this.#ctx.machine.physical.write(address, message)) {
      this.#ctx.log.guestError('aplic: nothing takes the message', { address, identity })
    }
  }

  #idcRegister(offset: number): { idc?: number; register: number } {
    const idc = Math.floor((offset - IDC) / IDC_BYTES)
    const register = (offset - IDC) % IDC_BYTES
    return idc >= 0 && idc < this.#outputs.length ? { idc, register } : { register }
  }

  #writeIdc(offset: number, value: number): void {
    const s = this.#state
    const { idc, register } = this.#idcRegister(offset)
    if (idc !== undefined && register === IDELIVERY) s.idelivery[idc] = value & 1
    else if (idc !== undefined && register === IFORCE) s.iforce[idc] = value & 1
    else if (idc !== undefined && register === ITHRESHOLD) s.ithreshold[idc] = value & IPRIO_MASK
    else this.#ctx.log.guestError('aplic: write to a reserved or read-only register', { offset, value })
  }

  /** Number and priority of the source that comes first for a hart; 0: none. */
  #topi(idc: number): number {
    const { state, target, ithreshold } = this.#state
    const threshold = ithreshold[idc]!
    let best = 0
    let bestPriority = Infinity
    for (let source = 1; source < NUMBERS; source++) {
      if ((state[source]! & READY) !== READY || target[source]! >>> HART_SHIFT !== idc || !this.has(source)) continue
      const priority = target[source]! & IPRIO_MASK
      if ((threshold !== 0 && priority >= threshold) || priority >= bestPriority) continue
      best = (source << 16) | priority
      bestPriority = priority
    }
    return best
  }

  #claimi(idc: number): number {
    const topi = this.#topi(idc)
    const source = topi >>> 16
    if (source === 0) this.#state.iforce[idc] = 0
    // A level-sensitive source stays pending as long as its wire asks.
    else if (!this.#isLevel(source) || !this.rectified(source)) this.#setPending(source, false)
    this.#updateOutput(idc)
    return topi
  }

  #updateOutput(idc: number): void {
    const s = this.#state
    const delivers = (s.domaincfg & DOMAINCFG_IE) !== 0 && (s.idelivery?.[idc] ?? 0) !== 0
    this.#outputs[idc]?.set(delivers && (s.iforce[idc] !== 0 || this.#topi(idc) !== 0))
  }

  #saveInputs(): void {
    const { state } = this.#state
    for (let source = 1; source < NUMBERS; source++) {
      if (this.has(source) && this.#parts.inputs[source]) state[source]! |= INPUT
      else state[source]! &= ~INPUT
    }
  }

  /** The machine's domain comes first, so that it is known which sources are whose. */
  #loadInputs(): void {
    const { state } = this.#state
    for (let source = 0; source < NUMBERS; source++) {
      // 7.2 sends what was in its memory before for sources that nobody has configured.
      const known = !this.has(source) ? 0 : this.#mode(source) === SM.inactive ? INPUT : READY | INPUT
      state[source]! &= known
      if (known !== 0) this.#parts.inputs[source] = state[source]! & INPUT ? 1 : 0
    }
  }
}
