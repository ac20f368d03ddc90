import { globalStateVmstate, type Vmstate } from '@ferryvm/core'
import { hartTables } from '@ferryvm/cpu-riscv'
import { intelIommuVmstate } from '@ferryvm/devices-iommu'
import { pciTables } from '@ferryvm/devices-pci'
import {
  acpiBuildVmstate,
  aplicVmstate,
  fwCfgVmstate,
  goldfishRtcVmstate,
  imsicVmstate,
  mtimerVmstate,
  pflashCfi01Vmstate,
  plicVmstate,
  uart16550Vmstate,
} from '@ferryvm/devices-virt'
import { timerVmstate } from '@ferryvm/machine'
import { slirpVmstate } from '@ferryvm/netdev'
import type { SectionIdentity } from '@ferryvm/stream'

/** Tables of our devices, for streams without a description. Interrupt controllers know the number of harts only by what came. */
export const virtTables = ({ idstr, version, harts, machine, earlier }: SectionIdentity): Vmstate<any> | undefined => {
  // Devices on a bus have its path before their name.
  const name = idstr.slice(idstr.lastIndexOf('/') + 1)
  return machine === undefined || machine === 'virt'
    ? virtTable(name, version, Math.max(1, harts), earlier)
    : TABLES[name]
}

function virtTable(
  name: string,
  version: number,
  harts: number,
  earlier: ReadonlySet<string>,
): Vmstate<any> | undefined {
  if (name === 'cpu') return version === 5 ? hartTables['cpu v5'] : version === 10 ? hartTables['cpu v10'] : undefined
  if (name === 'riscv_mtimer') return mtimerVmstate(harts)
  if (name === 'riscv_sifive_plic') return plicVmstate(2 * harts)
  // With interrupt files to send to it has no wires.
  if (name === 'riscv_aplic') return aplicVmstate(earlier.has('riscv_imsic') ? 0 : harts)
  return TABLES[name]
}

const TABLES: Readonly<Record<string, Vmstate<any>>> = {
  ...pciTables,
  cpu_common: hartTables.cpu_common,
  timer: timerVmstate,
  serial: uart16550Vmstate,
  goldfish_rtc: goldfishRtcVmstate,
  pflash_cfi01: pflashCfi01Vmstate,
  fw_cfg: fwCfgVmstate,
  virt_acpi_build: acpiBuildVmstate,
  'iommu-intel': intelIommuVmstate,
  // One file; with `aia-guests=` those of guests follow in the same section, and nothing here tells how many.
  riscv_imsic: imsicVmstate(1),
  slirp: slirpVmstate,
  globalstate: globalStateVmstate,
}
