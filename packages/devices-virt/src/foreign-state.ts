/**
 * State that stock machines have and this board has not: it is taken in, so that their streams load, and goes back only
 * to the release that knows it. Spec: virt-vmstate.md sections 2 and 14.
 */
import { bool, type Device, type DeviceContext, defineDevice, defineVmstate, registersItself } from '@ferryvm/core'
import { z } from 'zod'

const KiB = 1024

/** fw_cfg files that stock 10.0 keeps as RAM blocks: used and maximum length. */
const ACPI_BLOCKS = [
  { idstr: '/rom@etc/acpi/tables', sizeBytes: 128 * KiB, maxBytes: 2048 * KiB },
  { idstr: '/rom@etc/table-loader', sizeBytes: 4 * KiB, maxBytes: 64 * KiB },
  { idstr: '/rom@etc/acpi/rsdp', sizeBytes: 4 * KiB, maxBytes: 4 * KiB },
] as const

export const acpiBuildVmstate = defineVmstate({
  name: 'virt_acpi_build',
  version: 1,
  fields: {
    /** The guest's firmware has linked the tables. */
    patched: bool(),
  },
})

/** No registers. `returnsAcpi`: what arrived of the ACPI tables leaves with the machine again. */
export const foreignState = defineDevice({
  type: 'foreign-state',
  props: z.object({ returnsAcpi: z.boolean().default(false) }),
  migration: registersItself,
  realize: (ctx, { returnsAcpi }) => new ForeignState(ctx, returnsAcpi),
})

class ForeignState implements Device {
  constructor(ctx: DeviceContext<undefined>, returnsAcpi: boolean) {
    let acpiArrived = false
    for (const { idstr, sizeBytes, maxBytes } of ACPI_BLOCKS) {
      const { block } = ctx.ram(idstr, sizeBytes, undefined, {
        maxBytes,
        migrates: false,
        onReceived: () => {
          acpiArrived = returnsAcpi
          block.migrates = returnsAcpi
        },
      })
    }
    const acpi = acpiBuildVmstate.createState()
    ctx.registerVmstate({ ...acpiBuildVmstate, needed: () => acpiArrived }, acpi)
  }
}
