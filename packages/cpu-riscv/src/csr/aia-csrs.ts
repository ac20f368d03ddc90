/**
 * CSRs of Smaia and Ssaia, which a hart has together with its interrupt files. Spec: RISC-V AIA, chapters "Control and Status
 * Registers (CSRs) Added to Harts" and "Incoming MSI Controller". As in the reference machine mvien and mvip (and hvien, for
 * guests) hold nothing: software cannot make interrupts pending for the level below.
 */
import { FILE, type InterruptFileMemory } from '../hart/interrupt-file.ts'
import { type CsrName, LAYOUT } from '../hart/layout.ts'
import { EXTERNAL, topi } from '../trap/interrupt-priorities.ts'
import { type Csr, type CsrContext, Effect, stored } from './csr-row.ts'

/** What xiselect holds. */
const SELECT = 0x1ffn
/** Numbers that select priorities of local interrupts, eight in each register of a 64-bit hart. */
const IPRIO = { first: 0x30, last: 0x3f } as const
const PRIORITIES_PER_REGISTER = 8
const VGEIN_SHIFT = 12
const VGEIN_MASK = 0x3f

const hasFiles = (c: CsrContext): boolean => c.profile.guestFiles !== undefined

/** A level, as its CSRs see it. */
interface Level {
  readonly select: CsrName
  /** Where its priorities of local interrupts are, and which of them is always 0. */
  readonly priorities: number
  readonly external: number
  /** undefined: there is none. */
  file(c: CsrContext): InterruptFileMemory | undefined
}

const MACHINE: Level = {
  select: 'miselect',
  priorities: LAYOUT.miprio,
  external: EXTERNAL.M,
  file: (c) => c.interrupts.files[FILE.M],
}
const SUPERVISOR: Level = {
  select: 'siselect',
  priorities: LAYOUT.siprio,
  external: EXTERNAL.S,
  file: (c) => c.interrupts.files[FILE.S],
}
/** Of the guest whose file hstatus.VGEIN names. */
const GUEST: Level = {
  select: 'vsiselect',
  priorities: LAYOUT.hviprio,
  external: EXTERNAL.S,
  file(c) {
    const guest = (Number(c.hart.csr('hstatus')) >> VGEIN_SHIFT) & VGEIN_MASK
    return guest === 0 ? undefined : c.interrupts.files[FILE.S + guest]
  },
}

const selected = (c: CsrContext, level: Level): number => Number(c.hart.csr(level.select))

/** Where the priorities are that are selected; undefined: something else is. */
function prioritiesAt(c: CsrContext, level: Level): number | undefined {
  const select = selected(c, level)
  if (select < IPRIO.first || select > IPRIO.last || select & 1) return undefined
  return level.priorities + ((select - IPRIO.first) / 2) * PRIORITIES_PER_REGISTER
}

const indirect = (name: string, level: Level): Csr => ({
  name,
  effect: Effect.interrupts,
  exists: (c) =>
    hasFiles(c) && (prioritiesAt(c, level) !== undefined || level.file(c)?.read(selected(c, level)) !== undefined),
  read(c) {
    const at = prioritiesAt(c, level)
    return (at === undefined ? level.file(c)?.read(selected(c, level)) : c.hart.get(at)) ?? 0n
  },
  modify(c, value, mask) {
    const at = prioritiesAt(c, level)
    if (at === undefined) level.file(c)?.modify(selected(c, level), value, mask)
    else {
      c.hart.set(at, (c.hart.get(at) & ~mask) | (value & mask))
      c.hart.u8[level.priorities + level.external] = 0
    }
  },
})

/** The identity that comes first; a write claims the one that the same instruction has read. */
const topei = (name: string, level: Level): Csr => {
  const shown = (identity: number): bigint => BigInt((identity << 16) | identity)
  return {
    name,
    effect: Effect.interrupts,
    exists: (c) => hasFiles(c) && level.file(c) !== undefined,
    read(c) {
      const file = level.file(c)
      if (!file) return 0n
      file.claimable = file.top
      return shown(file.claimable)
    },
    write(c) {
      const file = level.file(c)
      if (file && file.claimable !== 0) file.clearPending(file.claimable)
    },
  }
}

const select = (level: Level): Csr => ({
  ...stored(level.select),
  exists: hasFiles,
  write: (c, value) => c.hart.setCsr(level.select, value & SELECT),
})
const zero = (name: string): Csr => ({ name, exists: hasFiles, read: () => 0n })

/** Priorities of the guest interrupts in hviprio1 and hviprio2, a byte each. Spec: RISC-V AIA, "hviprio1 and hviprio2". */
const hviprio = (name: string, interrupts: readonly (number | undefined)[]): Csr => ({
  name,
  exists: hasFiles,
  read: (c) =>
    interrupts.reduce(
      (sum, interrupt, i) =>
        interrupt === undefined ? sum : sum | (BigInt(c.hart.u8[LAYOUT.hviprio + interrupt]) << BigInt(8 * i)),
      0n,
    ),
  write(c, value) {
    for (const [i, interrupt] of interrupts.entries()) {
      if (interrupt !== undefined) c.hart.u8[LAYOUT.hviprio + interrupt] = Number((value >> BigInt(8 * i)) & 0xffn)
    }
  },
})

/** By number. */
export const AIA_CSRS: readonly (readonly [number, Csr])[] = [
  [0x150, select(SUPERVISOR)],
  [0x151, indirect('sireg', SUPERVISOR)],
  [0x15c, topei('stopei', SUPERVISOR)],
  [
    0xdb0,
    {
      name: 'stopi',
      exists: hasFiles,
      read: (c) =>
        topi(c.interrupts.topOfSupervisor(), c.hart.u8.subarray(LAYOUT.siprio, LAYOUT.siprio + 64), EXTERNAL.S),
    },
  ],
  [0x250, select(GUEST)],
  [0x251, indirect('vsireg', GUEST)],
  [0x25c, topei('vstopei', GUEST)],
  [0xeb0, zero('vstopi')],
  [0x308, zero('mvien')],
  [0x309, zero('mvip')],
  [0x350, select(MACHINE)],
  [0x351, indirect('mireg', MACHINE)],
  [0x35c, topei('mtopei', MACHINE)],
  [
    0xfb0,
    {
      name: 'mtopi',
      exists: hasFiles,
      read: (c) => topi(c.interrupts.topOfMachine(), c.hart.u8.subarray(LAYOUT.miprio, LAYOUT.miprio + 64), EXTERNAL.M),
    },
  ],
  [0x608, zero('hvien')],
  [0x609, { ...stored('hvictl', 0x4fff_01ffn), exists: hasFiles }],
  [0x646, hviprio('hviprio1', [undefined, 1, undefined, 5, undefined, 13, 14, 15])],
  [0x647, hviprio('hviprio2', [16, 17, 18, 19, 20, 21, 22, 23])],
]
