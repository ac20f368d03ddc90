/**
 * State that stock machines have and this board has not: it is taken in, so that their streams load, and goes back only
 * to the release that knows it. Spec: virt-vmstate.md sections 2, 14 and 16.
 */
import {
  bool,
  type Device,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  registersItself,
  u8,
  u16,
  unused,
  validate,
} from '@ferryvm/core'
import { z } from 'zod'

const KiB = 1024

/** fw_cfg files that stock 10.0 keeps as RAM blocks: used and maximum length. */
const ACPI_BLOCKS = [
  { idstr: '/rom@etc/acpi/tables', sizeBytes: 128 * KiB, maxBytes: 2048 * KiB },
  { idstr: '/rom@etc/table-loader', sizeBytes: 4 * KiB, maxBytes: 64 * KiB },
  { idstr: '/rom@etc/acpi/rsdp', sizeBytes: 4 * KiB, maxBytes: 4 * KiB },
] as const

const LEASES = 16

/** User-mode network without forwarded ports: nothing of it lives on here, and a guest's connections end. */
const slirpVmstate = defineVmstate({
  name: 'slirp',
  version: 4,
  minimumVersion: 4,
  fields: {
    /** Terminator of the list of forwarded sockets. */
    forwards: u8(),
    none: validate('the sender forwards connections to host sockets (guestfwd)', (s) => s.forwards === 0),
    ip_id: u16(),
    /** {allocated u16, MAC address}. */
    leases: unused(LEASES * 8),
  },
  needed: () => false,
})

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
    ctx.registerVmstate(slirpVmstate, slirpVmstate.createState())
    const acpi = acpiBuildVmstate.createState()
    ctx.registerVmstate({ ...acpiBuildVmstate, needed: () => acpiArrived }, acpi)
  }
}
