import { bool, u32, u64, u64Array, VmstateMismatchError } from '@ferryvm/core'
import type { HartProfile } from '../hart/profile.ts'
import { extensionsOf, type ToldIsa } from './told-isa.ts'

/**
 * What a sender's hart may have and ours has not. State that the guest does not use is taken in and dropped; state that it
 * uses, and features that it was given, are refused by name. Spec: virt-vmstate.md section 4.
 */

/** Subsections of extensions that no profile has; needed by nobody here, so never sent. */
export const FOREIGN_SUBSECTIONS = {
  'cpu/vector': {
    version: 2,
    fields: {
      'env.vreg': u64Array(512),
      'env.vxrm': u64(),
      'env.vxsat': u64(),
      'env.vl': u64(),
      'env.vstart': u64(),
      'env.vtype': u64(),
      'env.vill': bool(),
    },
    needed: () => false,
  },
  'cpu/pointer_masking': {
    version: 1,
    fields: {
      'env.mmte': u64(),
      'env.mpmmask': u64(),
      'env.mpmbase': u64(),
      'env.spmmask': u64(),
      'env.spmbase': u64(),
      'env.upmmask': u64(),
      'env.upmbase': u64(),
    },
    needed: () => false,
  },
  'cpu/smtateen': {
    version: 1,
    fields: { 'env.mstateen': u64Array(4), 'env.hstateen': u64Array(4), 'env.sstateen': u64Array(4) },
    needed: () => false,
  },
  'cpu/jvt': { version: 1, fields: { 'env.jvt': u64() }, needed: () => false },
  'cpu/elp': { version: 1, fields: { 'env.elp': bool() }, needed: () => false },
  'cpu/ssp': { version: 1, fields: { 'env.ssp': u64() }, needed: () => false },
  'cpu/ctr': {
    version: 1,
    fields: {
      'env.mctrctl': u64(),
      'env.sctrdepth': u32(),
      'env.sctrstatus': u32(),
      'env.vsctrctl': u64(),
      // Records of the past, which nothing depends on.
      'env.ctr_src': u64Array(256),
      'env.ctr_dst': u64Array(256),
      'env.ctr_data': u64Array(256),
    },
    needed: () => false,
  },
} as const

/** Rows whose being set means that the guest uses the extension. */
const IN_USE: readonly (readonly [extension: string, rows: readonly string[]])[] = [
  ['V (vector registers)', ['env.vl', 'env.vtype', 'env.vstart', 'env.vreg']],
  ['J (pointer masking)', ['env.mmte']],
  ['Smstateen', ['env.mstateen', 'env.hstateen', 'env.sstateen']],
  ['Zcmt (jump table)', ['env.jvt']],
  ['Zicfilp (landing pads)', ['env.elp']],
  ['Zicfiss (shadow stack)', ['env.ssp']],
  ['Smctr (control transfer records)', ['env.mctrctl', 'env.vsctrctl']],
  ['Smcdeleg (counter delegation)', ['env.scountinhibit']],
]

/** Registers that a hart with interrupt files has. */
const AIA = ['env.hvien', 'env.hvictl', 'env.miselect', 'env.siselect', 'env.vsiselect']
/** What 10.0 has besides and these harts have not: interrupts that software makes pending for the level below. */
const VIRTUAL_INTERRUPTS = ['env.mvien', 'env.mvip', 'env.sie', 'env.vsie']

/** Bits of menvcfg, senvcfg and henvcfg that open an extension to the mode below. Spec: privileged ISA, "menvcfg". */
const ENVCFG: readonly (readonly [
  name: string,
  bits: bigint,
  extension: string,
  what: string,
  has: (p: HartProfile) => boolean,
])[] = [
  ['LPE', 1n << 2n, 'zicfilp', 'landing pads', () => false],
  ['SSE', 1n << 3n, 'zicfiss', 'shadow stack', () => false],
  ['CBIE', 3n << 4n, 'zicbom', 'cbo.inval', (p) => p.zicbom],
  ['CBCFE', 1n << 6n, 'zicbom', 'cbo.clean, cbo.flush', (p) => p.zicbom],
  ['CBZE', 1n << 7n, 'zicboz', 'cbo.zero', (p) => p.zicboz],
  ['PMM', 3n << 32n, 'smnpm', 'pointer masking', () => false],
  ['CDE', 1n << 60n, 'smcdeleg', 'counter delegation', () => false],
  ['PBMTE', 1n << 62n, 'svpbmt', 'memory types in page tables', (p) => p.svpbmt],
  ['STCE', 1n << 63n, 'sstc', 'stimecmp', (p) => p.sstc],
]
// ADUE is missing on purpose: a profile without it always updates A and D, which an OS that expects faults tolerates.

const isSet = (value: unknown): boolean =>
  typeof value === 'object' ? (value as BigUint64Array).some((v) => Boolean(v)) : Boolean(value)

/** Forgets what an earlier stream brought. */
export function clearForeign(state: any): void {
  for (const { fields } of Object.values(FOREIGN_SUBSECTIONS)) {
    for (const row of Object.keys(fields)) {
      const value = state[row]
      if (typeof value === 'object') value.fill(typeof value[0] === 'bigint' ? 0n : 0)
      else state[row] = typeof value === 'bigint' ? 0n : typeof value === 'boolean' ? false : 0
    }
  }
}

/**
 * Everything that keeps this guest from running on a hart of `profile`, each with the CSR bit or row that shows it. A bit
 * alone proves nothing where the guest's device tree is known: firmware sets all that can be set.
 *
 * @throws VmstateMismatchError names all of it
 */
export function refuseForeign(state: any, profile: HartProfile, told: () => ToldIsa | undefined): void {
  const reasons: string[] = []
  let extensions: ReadonlySet<string> | undefined | null = null
  const wasTold = (extension: string): boolean => {
    if (extensions === null) extensions = extensionsOf(told())
    return extensions?.has(extension) ?? true
  }
  for (const [csr, row] of [
    ['menvcfg', 'env.menvcfg'],
    ['senvcfg', 'env.senvcfg'],
    ['henvcfg', 'env.henvcfg'],
  ] as const) {
    for (const [name, bits, extension, what, has] of ENVCFG) {
      if (!(state[row] & bits) || has(profile) || !wasTold(extension)) continue
      reasons.push(`${csr}.${name} is set: ${extension} (${what})`)
    }
  }
  const aia = profile.guestFiles === undefined ? [...AIA, ...VIRTUAL_INTERRUPTS] : VIRTUAL_INTERRUPTS
  for (const [extension, rows] of [...IN_USE, ['AIA (advanced interrupts)', aia] as const]) {
    const row = rows.find((r) => r in state && isSet(state[r]))
    if (row) reasons.push(`${row.replace('env.', '')} is in use: ${extension}`)
  }
  if (reasons.length === 0) return
  throw new VmstateMismatchError(
    'env.menvcfg',
    `the guest depends on what a ${profile.name} hart does not have: ${reasons.join('; ')}. Boot it without (on the ` +
      'source, for example -cpu rv64,zicboz=off,zicbom=off), or give this machine the profile of the source',
  )
}
