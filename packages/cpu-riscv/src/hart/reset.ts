import { hviprioReset, miprioReset, siprioReset } from '../trap/interrupt-priorities.ts'
import type { HartState } from './hart-state.ts'
import { PRIV, WORD } from './hart-state.ts'
import { CSR_STORAGE, LAYOUT } from './layout.ts'
import type { HartProfile } from './profile.ts'

export const RESET_VECTOR = 0x1000n
/** misa.MXL = 2: XLEN 64. */
export const MISA_MXL_64 = 2n << 62n
/** UXL = SXL = 2. */
export const MSTATUS_RESET = 0xa_0000_0000n
const TDATA1_RESET = 0x2000_0000_0000_0000n
/** No reservation. */
export const NO_RESERVATION = 0xffff_ffff_ffff_ffffn

/**
 * Power-on state: M-mode at the reset vector, translations and decoded code not touched (see flushAll). Interrupt input
 * levels, mtimecmp, run state and counters belong to others and stay. Spec: virt-machine.md section 3.
 */
export function resetHart(hart: HartState, profile: HartProfile): void {
  hart.u64.fill(0n, LAYOUT.x >> 3, LAYOUT.instret >> 3)
  for (const name of CSR_STORAGE) hart.setCsr(name, 0n)
  for (const [at, words] of [
    [LAYOUT.pmpaddr, 16],
    [LAYOUT.pmpcfg, 2],
    [LAYOUT.mhpmcounter, 32],
    [LAYOUT.mhpmprev, 32],
    [LAYOUT.mhpmevent, 32],
    [LAYOUT.tdata, 6],
  ]) {
    hart.u64.fill(0n, at >> 3, (at >> 3) + words)
  }
  hart.u8.set(miprioReset(), LAYOUT.miprio)
  hart.u8.set(siprioReset(), LAYOUT.siprio)
  hart.u8.set(hviprioReset(), LAYOUT.hviprio)
  hart.set(LAYOUT.tdata, TDATA1_RESET)
  hart.set(LAYOUT.tdata + 8, TDATA1_RESET)
  hart.set(LAYOUT.loadRes, NO_RESERVATION)
  hart.set(LAYOUT.pageVaddr, NO_RESERVATION)
  hart.pc = RESET_VECTOR
  hart.priv = PRIV.M
  hart.i32[WORD.trapPending] = 0
  hart.setCsr('mstatus', MSTATUS_RESET)
  hart.setCsr('misa', MISA_MXL_64 | BigInt(profile.misaExtensions))
  hart.setCsr('menvcfg', profile.menvcfgReset)
  hart.setCsr('mideleg', profile.midelegReset)
  hart.setCsr('vsstatus', MSTATUS_RESET)
}
