import { IRQ, MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import { type CsrName, csrOffset, LAYOUT } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import { satpModeExists } from '../mmu/translation.ts'
import { AIA_CSRS } from './aia-csrs.ts'
import { readCounter, setInhibit, writeCounter } from './counters.ts'
import { ALL, type Csr, type CsrContext, Effect, stored } from './csr-row.ts'

/** SIE, SPIE, SPP, FS, SUM, MXR. */
export const SSTATUS_WRITE = 0xc6122n
/** + MIE, MPIE, MPP, MPRV, TVM, TW, TSR, GVA, MPV. */
const MSTATUS_WRITE = 0xc0_007e_79aan
/** + UXL. */
export const SSTATUS_READ = 0x3_000d_e762n
const SD = 1n << 63n
const S_INTERRUPTS = 0x222n
const VS_INTERRUPTS = 0x444n
const HS_INTERRUPTS = VS_INTERRUPTS | 0x1000n
const ALL_INTERRUPTS = 0x888n | S_INTERRUPTS | HS_INTERRUPTS
const DELEGABLE_EXCEPTIONS = 0xf0_bfffn
/** Software check exceptions can be delegated from priv 1.13 on, though nothing raises them. */
const softwareCheck = (profile: HartProfile): bigint => (profile.privVersion >= 3 ? 1n << 18n : 0n)
const STCE = 1n << 63n
const ADUE = 1n << 61n
const PBMTE = 1n << 62n
const ENVCFG = 0xf1n
const COUNTER_NAMES = ['cycle', 'time', 'instret']

const SSTATUS = Number(SSTATUS_WRITE)

/** A word that is all there is to the register. */
const plain = (name: CsrName, mask = ALL): Csr => ({ ...stored(name, mask), word: { at: csrOffset(name), mask } })

function constant(name: string, value: (c: CsrContext) => bigint): Csr {
  return { name, read: value }
}

/** xtvec: the two low bits choose direct or vectored; other modes are not accepted. */
function trapVector(name: CsrName): Csr {
  return {
    ...stored(name),
    write: (c, value) => {
      if ((value & 3n) < 2n) c.hart.setCsr(name, value)
    },
  }
}

const withSd = (mstatus: bigint): bigint =>
  (mstatus & 0x6000n) === 0x6000n || (mstatus & 0x600n) === 0x600n ? mstatus | SD : mstatus

function writeMstatus(c: CsrContext, value: bigint, mask: bigint): void {
  const old = c.hart.csr('mstatus')
  let next = (old & ~mask) | (value & mask)
  // MPP = 2 is no mode.
  if (((next >> 11n) & 3n) === 2n) next = (next & ~0x1800n) | (old & 0x1800n)
  c.hart.setCsr('mstatus', next)
}

/** Bits of mip that software may write. SEIP is a bit of its own, ORed with the line from the interrupt controller. */
const MIP_WRITE = S_INTERRUPTS | VS_INTERRUPTS

function writeMip(c: CsrContext, value: bigint, mask: bigint): void {
  if (c.hart.csr('menvcfg') & STCE) mask &= ~BigInt(IRQ.STIP)
  const bits = Number(mask)
  Atomics.and(c.hart.i32, WORD.mip, ~bits)
  Atomics.or(c.hart.i32, WORD.mip, Number(value & mask))
}

const mideleg = (c: CsrContext): bigint => c.hart.csr('mideleg')

/** stimecmp: needs menvcfg.STCE and mcounteren.TM below M-mode. */
function sstcEnabled(c: CsrContext): boolean {
  if (!c.profile.sstc) return false
  if (c.hart.priv === PRIV.M) return true
  return (c.hart.csr('menvcfg') & STCE) !== 0n && (c.hart.csr('mcounteren') & 2n) !== 0n
}

/** cycle, time, instret, hpmcounter: mcounteren gates S and U, scounteren gates U. */
function counterEnabled(index: number): (c: CsrContext) => boolean {
  const bit = 1n << BigInt(index)
  return (c) => {
    const priv = c.hart.priv
    if (index > 2 && index >= 3 + c.profile.hpmCounters) return false
    if (priv < PRIV.M && !(c.hart.csr('mcounteren') & bit)) return false
    return priv !== PRIV.U || (c.hart.csr('scounteren') & bit) !== 0n
  }
}

const fpOn = (c: CsrContext): boolean => (c.hart.i32[WORD.mstatus] & MSTATUS.FS) !== 0
function setFcsr(c: CsrContext, fflags: number | undefined, frm: number | undefined): void {
  const { i32 } = c.hart
  if (fflags !== undefined) i32[WORD.fflags] = fflags & 31
  if (frm !== undefined) i32[WORD.frm] = frm & 7
  i32[WORD.mstatus] |= MSTATUS.FS
  i32[WORD.fpOff] = 0
}

/** hgatp and vsatp take a value only if the mode exists. */
function addressTranslation(name: CsrName, exists?: Csr['exists']): Csr {
  return {
    ...stored(name, ALL, Effect.translation),
    exists,
    write: (c, value) => {
      if (satpModeExists(Number(value >> 60n))) c.hart.setCsr(name, value)
    },
  }
}

const pmp0 = 0x3b0
const table = new Map<number, Csr>()
const add = (number: number, csr: Csr): void => void table.set(number, csr)

// Floating point.
add(0x001, {
  name: 'fflags',
  exists: fpOn,
  read: (c) => BigInt(c.hart.i32[WORD.fflags]),
  write: (c, value) => setFcsr(c, Number(value & 31n), undefined),
})
add(0x002, {
  name: 'frm',
  exists: fpOn,
  read: (c) => BigInt(c.hart.i32[WORD.frm]),
  write: (c, value) => setFcsr(c, undefined, Number(value & 7n)),
})
add(0x003, {
  name: 'fcsr',
  exists: fpOn,
  read: (c) => BigInt(c.hart.i32[WORD.fflags] | (c.hart.i32[WORD.frm] << 5)),
  write: (c, value) => setFcsr(c, Number(value & 31n), Number((value >> 5n) & 7n)),
})

// Counters and timers.
for (let i = 0; i < 32; i++) {
  const user = COUNTER_NAMES[i] ?? `hpmcounter${i}`
  add(0xc00 + i, {
    name: user,
    read: i === 1 ? (c) => c.interrupts.time : (c) => readCounter(c.hart, i),
    exists: counterEnabled(i),
  })
  if (i === 1) continue
  add(0xb00 + i, {
    name: i === 0 ? 'mcycle' : i === 2 ? 'minstret' : `mhpmcounter${i}`,
    exists: (c) => i < 3 + c.profile.hpmCounters,
    read: (c) => readCounter(c.hart, i),
    write: (c, value) => writeCounter(c.hart, i, value),
  })
  if (i < 3) continue
  const event = LAYOUT.mhpmevent + i * 8
  add(0x320 + i, {
    name: `mhpmevent${i}`,
    read: (c) => c.hart.get(event),
    write: (c, value) => c.hart.set(event, value),
  })
}

// Supervisor.
add(0x100, {
  name: 'sstatus',
  effect: Effect.interrupts | Effect.translation,
  read: (c) => withSd(c.hart.csr('mstatus') & SSTATUS_READ),
  write: (c, value) => {
    // The low word holds all of it, and this is the CSR that a kernel writes most.
    const { i32 } = c.hart
    i32[WORD.mstatus] = (i32[WORD.mstatus] & ~SSTATUS) | (Number(value & SSTATUS_WRITE) & SSTATUS)
  },
})
add(0x104, {
  name: 'sie',
  effect: Effect.interrupts,
  read: (c) => c.hart.csr('mie') & mideleg(c) & S_INTERRUPTS,
  write: (c, value) => {
    const mask = mideleg(c) & S_INTERRUPTS
    c.hart.setCsr('mie', (c.hart.csr('mie') & ~mask) | (value & mask))
  },
})
add(0x105, trapVector('stvec'))
add(0x106, {
  ...stored('scounteren'),
  write: (c, value) => c.hart.setCsr('scounteren', value & c.profile.mcounterenMask),
})
add(0x10a, stored('senvcfg', ENVCFG))
add(0x140, plain('sscratch'))
add(0x141, plain('sepc', ALL ^ 1n))
add(0x142, plain('scause'))
add(0x143, plain('stval'))
add(0x144, {
  name: 'sip',
  effect: Effect.interrupts,
  read: (c) => BigInt(c.interrupts.pending()) & mideleg(c) & S_INTERRUPTS,
  modify: (c, value, mask) => writeMip(c, value, mask & mideleg(c) & BigInt(IRQ.SSIP)),
})
add(0x14d, { ...stored('stimecmp', ALL, Effect.interrupts | Effect.timers), exists: sstcEnabled })
add(
  0x180,
  addressTranslation('satp', (c) => c.hart.priv !== PRIV.S || !(c.hart.i32[WORD.mstatus] & MSTATUS.TVM)),
)

// Hypervisor: storage only.
add(0x200, stored('vsstatus', SSTATUS_WRITE))
add(0x204, {
  name: 'vsie',
  effect: Effect.interrupts,
  read: (c) => (c.hart.csr('mie') & c.hart.csr('hideleg') & VS_INTERRUPTS) >> 1n,
  write: (c, value) => {
    const mask = c.hart.csr('hideleg') & VS_INTERRUPTS
    c.hart.setCsr('mie', (c.hart.csr('mie') & ~mask) | ((value << 1n) & mask))
  },
})
add(0x205, trapVector('vstvec'))
add(0x240, stored('vsscratch'))
add(0x241, stored('vsepc', ALL ^ 1n))
add(0x242, stored('vscause'))
add(0x243, stored('vstval'))
add(0x244, {
  name: 'vsip',
  effect: Effect.interrupts,
  read: (c) => (BigInt(c.interrupts.pending()) & c.hart.csr('hideleg') & VS_INTERRUPTS) >> 1n,
  modify: (c, value, mask) => writeMip(c, value << 1n, (mask << 1n) & c.hart.csr('hideleg') & BigInt(IRQ.VSSIP)),
})
add(0x24d, { ...stored('vstimecmp'), exists: sstcEnabled })
add(0x280, addressTranslation('vsatp'))
add(0x600, {
  ...stored('hstatus', 0x70_03c0n | (0x3fn << 12n)),
  // VSXL is fixed: 64 bits.
  read: (c) => c.hart.csr('hstatus') | (2n << 32n),
})
add(0x602, {
  ...stored('hedeleg'),
  write: (c, value) => c.hart.setCsr('hedeleg', value & (0xb1ffn | softwareCheck(c.profile))),
})
add(0x603, stored('hideleg', VS_INTERRUPTS))
add(0x604, {
  name: 'hie',
  effect: Effect.interrupts,
  read: (c) => c.hart.csr('mie') & HS_INTERRUPTS,
  write: (c, value) => c.hart.setCsr('mie', (c.hart.csr('mie') & ~HS_INTERRUPTS) | (value & HS_INTERRUPTS)),
})
add(0x605, stored('htimedelta'))
add(0x606, {
  ...stored('hcounteren'),
  write: (c, value) => c.hart.setCsr('hcounteren', value & c.profile.mcounterenMask),
})
add(0x607, {
  ...stored('hgeie'),
  effect: Effect.interrupts,
  // Bit n is the file of guest n; there is no guest 0.
  write: (c, value) => c.hart.setCsr('hgeie', value & ((2n << BigInt(c.profile.guestFiles ?? 0)) - 2n)),
})
add(0x60a, {
  ...stored('henvcfg'),
  write: (c, value) => {
    const wide = c.hart.csr('menvcfg') & (STCE | PBMTE | ADUE)
    const mask = ENVCFG | wide
    c.hart.setCsr('henvcfg', (c.hart.csr('henvcfg') & ~mask) | (value & mask))
  },
})
add(0x643, stored('htval'))
add(0x644, {
  name: 'hip',
  effect: Effect.interrupts,
  read: (c) => BigInt(c.interrupts.pending()) & HS_INTERRUPTS,
  modify: (c, value, mask) => writeMip(c, value, mask & BigInt(IRQ.VSSIP)),
})
add(0x645, {
  name: 'hvip',
  effect: Effect.interrupts,
  read: (c) => BigInt(c.interrupts.pending()) & VS_INTERRUPTS,
  modify: (c, value, mask) => writeMip(c, value, mask & VS_INTERRUPTS),
})
add(0x64a, stored('htinst'))
add(0x680, {
  ...addressTranslation('hgatp', (c) => c.hart.priv !== PRIV.S || !(c.hart.i32[WORD.mstatus] & MSTATUS.TVM)),
  effect: Effect.none,
})
add(
  0xe12,
  constant('hgeip', (c) => BigInt(c.interrupts.hgeip)),
)

// Machine.
add(
  0xf11,
  constant('mvendorid', (c) => c.profile.mvendorid),
)
add(
  0xf12,
  constant('marchid', (c) => c.profile.marchid),
)
add(
  0xf13,
  constant('mimpid', (c) => c.profile.mimpid),
)
add(
  0xf14,
  constant('mhartid', (c) => BigInt(c.hart.index)),
)
add(
  0xf15,
  constant('mconfigptr', () => 0n),
)
add(0x300, {
  name: 'mstatus',
  effect: Effect.interrupts | Effect.translation,
  read: (c) => withSd(c.hart.csr('mstatus')),
  write: (c, value) => writeMstatus(c, value, MSTATUS_WRITE),
})
add(0x301, { name: 'misa', read: (c) => c.hart.csr('misa') })
add(0x302, stored('medeleg', DELEGABLE_EXCEPTIONS))
add(0x303, {
  ...stored('mideleg'),
  effect: Effect.interrupts,
  write: (c, value) => c.hart.setCsr('mideleg', (value & S_INTERRUPTS) | HS_INTERRUPTS),
})
add(0x304, stored('mie', ALL_INTERRUPTS, Effect.interrupts))
add(0x305, trapVector('mtvec'))
add(0x306, {
  ...stored('mcounteren'),
  write: (c, value) => c.hart.setCsr('mcounteren', value & c.profile.mcounterenMask),
})
add(0x30a, {
  ...stored('menvcfg'),
  effect: Effect.interrupts | Effect.translation | Effect.tlb | Effect.timers,
  write: (c, value) => {
    const { sstc, svpbmt, svadu } = c.profile
    const mask = ENVCFG | (sstc ? STCE : 0n) | (svpbmt ? PBMTE : 0n) | (svadu ? ADUE : 0n)
    c.hart.setCsr('menvcfg', value & mask)
  },
})
add(0x320, {
  name: 'mcountinhibit',
  read: (c) => c.hart.csr('mcountinhibit'),
  write: (c, value) => setInhibit(c.hart, value & ((1n << BigInt(3 + c.profile.hpmCounters)) - 1n) & ~2n),
})
add(0x340, plain('mscratch'))
add(0x341, plain('mepc', ALL ^ 1n))
add(0x342, plain('mcause'))
add(0x343, plain('mtval'))
add(0x344, {
  name: 'mip',
  effect: Effect.interrupts,
  read: (c) => BigInt(c.interrupts.pending()),
  modify: (c, value, mask) => writeMip(c, value, mask & MIP_WRITE),
})
add(0x34a, stored('mtinst'))
add(0x34b, stored('mtval2'))
for (let i = 0; i < 16; i++) {
  add(pmp0 + i, {
    name: `pmpaddr${i}`,
    effect: Effect.tlb,
    read: (c) => c.pmp.readAddress(i),
    write: (c, value) => void c.pmp.writeAddress(i, value),
  })
}
for (const i of [0, 2]) {
  add(0x3a0 + i, {
    name: `pmpcfg${i}`,
    effect: Effect.tlb,
    read: (c) => c.pmp.readConfig(i / 2),
    write: (c, value) => c.pmp.writeConfig(i / 2, value),
  })
}

// Debug triggers: two, storage only.
const trigger = (c: CsrContext, kind: number): number => LAYOUT.tdata + (kind * 2 + Number(c.hart.csr('tselect'))) * 8
add(0x7a0, {
  ...stored('tselect'),
  write: (c, value) => {
    if (value < 2n) c.hart.setCsr('tselect', value)
  },
})
add(0x7a1, {
  name: 'tdata1',
  read: (c) => c.hart.get(trigger(c, 0)),
  // Only address matching (type 2) exists.
  write: (c, value) => {
    if (value >> 60n === 2n) c.hart.set(trigger(c, 0), value & 0xf000_0000_0000_005fn)
  },
})
for (const kind of [1, 2]) {
  add(0x7a1 + kind, {
    name: `tdata${kind + 1}`,
    read: (c) => c.hart.get(trigger(c, kind)),
    write: (c, value) => c.hart.set(trigger(c, kind), value),
  })
}
add(0x7a4, {
  name: 'tinfo',
  exists: (c) => c.profile.tinfo,
  read: () => 1n << 2n,
})

for (const [number, csr] of AIA_CSRS) add(number, csr)

/** By number: every CSR that any profile has. */
export const CSRS: ReadonlyMap<number, Csr> = table
