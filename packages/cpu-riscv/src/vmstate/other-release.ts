import type { Vmstate } from '@ferryvm/core'
import { cpuLayout, type HartVmstateParts, load } from './cpu-vmstate.ts'
import { refuseTold } from './told-isa.ts'

/** Rows that say what the sender's hart is rather than what the guest did; ours keep their own values. */
const IDENTITY: ReadonlySet<string> = new Set([
  'env.priv_ver',
  'env.vext_ver',
  'env.misa_ext',
  'env.misa_ext_mask',
  'env.misa_mxl_max',
  'env.features',
])

/**
 * The `cpu` section in the layout of the release that this hart does not stand in for: a guest of stock 7.2 arrives at a
 * 10.0 hart, or the other way round. What arrives goes into the hart and into the rows of `own`, so that it leaves in our
 * layout. Spec: virt-vmstate.md section 4, "Converting between v5 and v10".
 */
export function otherCpuVmstate(parts: HartVmstateParts, own: any): Vmstate<any> {
  const { profile, hart } = parts
  return cpuLayout(parts, profile.vmstateVersion === 5 ? 10 : 5, (state) => {
    load(state, parts)
    const told = profile.vmstateVersion === 5 ? parts.told?.() : undefined
    if (told) refuseTold(told, profile)
    hart.setCsr('mideleg', hart.csr('mideleg') | profile.midelegReset)
    // 7.2 keeps all 64 bits that firmware writes into these.
    for (const csr of ['mcounteren', 'scounteren', 'hcounteren', 'mcountinhibit'] as const) {
      hart.setCsr(csr, BigInt.asUintN(32, hart.csr(csr)))
    }
    hart.setCsr('mcounteren', hart.csr('mcounteren') & profile.mcounterenMask)
    // An OS that was never told of ADUE relies on the update that its hart always did.
    hart.setCsr('menvcfg', hart.csr('menvcfg') | profile.menvcfgReset)
    if (!profile.svadu) hart.setCsr('menvcfg', hart.csr('menvcfg') & ~ADUE)
    for (const [row, value] of Object.entries(state)) {
      if (!(row in own) || IDENTITY.has(row)) continue
      own[row] = converted(value, own[row])
    }
  })
}
const ADUE = 1n << 61n

/** Same contents in the type of the other layout's row: widths differ, and so do members of structures. */
function converted(value: any, like: any): any {
  if (typeof like === 'number') return Number(value)
  if (typeof like === 'bigint') return BigInt(value)
  if (!Array.isArray(like)) return value
  return like.map((member, i) =>
    Object.fromEntries(Object.keys(member).map((key) => [key, value[i]?.[key] ?? member[key]])),
  )
}
