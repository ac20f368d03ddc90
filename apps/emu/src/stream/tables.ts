import { globalStateVmstate, type Vmstate } from '@ferryvm/core'
import { intelIommuVmstate } from '@ferryvm/devices-iommu'
import {
  fwCfgVmstate,
  goldfishRtcVmstate,
  mtimerVmstate,
  pflashCfi01Vmstate,
  plicVmstate,
  uart16550Vmstate,
} from '@ferryvm/devices-virt'
import type { TableLookup } from '@ferryvm/stream'

/** Tables of our devices, for streams without a description. Interrupt controllers know the number of harts only by what came. */
export const deviceTables: TableLookup = ({ idstr, harts, machine }) =>
  machine === undefined || machine === 'virt' ? virtTables(idstr, Math.max(1, harts)) : TABLES[idstr]

function virtTables(idstr: string, harts: number): Vmstate<any> | undefined {
  if (idstr === 'riscv_mtimer') return mtimerVmstate(harts)
  if (idstr === 'riscv_sifive_plic') return plicVmstate(2 * harts)
  return TABLES[idstr]
}

const TABLES: Readonly<Record<string, Vmstate<any>>> = {
  serial: uart16550Vmstate,
  goldfish_rtc: goldfishRtcVmstate,
  pflash_cfi01: pflashCfi01Vmstate,
  fw_cfg: fwCfgVmstate,
  'iommu-intel': intelIommuVmstate,
  globalstate: globalStateVmstate,
}
