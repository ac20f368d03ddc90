/**
 * Whether a guest's firmware has linked the ACPI tables that stock 10.0 made for it: taken in, and sent back to the release
 * that knows it. The tables themselves are files of fw-cfg. Spec: virt-vmstate.md section 14.
 */
import { bool, type Device, type DeviceContext, defineDevice, defineVmstate, registersItself } from '@ferryvm/core'
import { z } from 'zod'

export const acpiBuildVmstate = defineVmstate({
  name: 'virt_acpi_build',
  version: 1,
  fields: { patched: bool() },
})

/** No registers. `acpi`: what arrived leaves with the machine again. */
export const virtAcpiBuild = defineDevice({
  type: 'virt-acpi-build',
  props: z.object({ acpi: z.boolean().default(false) }),
  migration: registersItself,
  realize: (ctx, { acpi }) => new VirtAcpiBuild(ctx, acpi),
})

class VirtAcpiBuild implements Device {
  constructor(ctx: DeviceContext<undefined>, acpi: boolean) {
    let arrived = false
    const postLoad = () => {
      arrived = acpi
    }
    ctx.registerVmstate({ ...acpiBuildVmstate, needed: () => arrived, postLoad }, acpiBuildVmstate.createState())
  }
}
