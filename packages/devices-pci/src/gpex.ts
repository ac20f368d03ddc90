/**
 * The generic PCIe host bridge of the `virt` board: ECAM, port and memory windows, root bus `pcie.0`.
 * Spec: virt-machine.md sections 1, 2 and 6.8; virt-vmstate.md section 8. One bus only: there are no bridges behind it.
 */
import {
  type DeviceContext,
  defineDevice,
  defineVmstate,
  i32Array,
  i32Equal,
  type MmioRegion,
  registersItself,
  type StandardSchema,
  struct,
  u32,
} from '@ferryvm/core'
import { AddressWindow } from './address-window.ts'
import { CONFIG_BYTES } from './config-space.ts'
import { INTX_LINES, PciBus } from './pci-bus.ts'
import { pciFunctionVmstate } from './pci-function-vmstate.ts'

const GiB = 2 ** 30

export interface GpexOptions {
  /** Configuration space of 256 buses. */
  readonly ecamBase?: number
  readonly pioBase?: number
  readonly mmioBase?: number
  readonly mmioBytes?: number
  readonly mmio64Base?: number
  readonly mmio64Bytes?: number
  /** Name for `bus=`. */
  readonly bus?: string
}

const defaults = {
  ecamBase: 0x3000_0000,
  pioBase: 0x0300_0000,
  mmioBase: 0x4000_0000,
  mmioBytes: GiB,
  mmio64Base: 16 * GiB,
  mmio64Bytes: 16 * GiB,
  bus: 'pcie.0',
}
const ECAM_BYTES = 0x1000_0000
const ECAM_BUS_SHIFT = 20
const ECAM_FUNCTION_SHIFT = 12
const PIO_BYTES = 0x1_0000

const rootVmstate = defineVmstate({ name: 'gpex_root', version: 1, fields: { parent_obj: struct(pciFunctionVmstate) } })
const hostVmstate = defineVmstate({
  name: 'PCIHost',
  version: 1,
  fields: {
    /** Address latch of the port-based access mechanism, which this board does not have. */
    config_reg: u32(),
  },
})
const busVmstate = defineVmstate({
  name: 'PCIBUS',
  version: 1,
  fields: {
    nirq: i32Equal('the number of INTx lines differs', { reset: INTX_LINES }),
    irq_count: i32Array(INTX_LINES),
  },
})

/** Tables of its sections by name, for reading streams. */
export const pciTables = { gpex_root: rootVmstate, PCIHost: hostVmstate, PCIBUS: busVmstate }

/** Placement: `irq` is the first of four interrupt lines. */
export const gpex = defineDevice({
  type: 'gpex-pcihost',
  props: gpexOptions(),
  migration: registersItself,
  realize(ctx: DeviceContext<undefined>, options) {
    const lines = Array.from({ length: INTX_LINES }, (_, i) => ctx.irq(i))
    const bus = new PciBus(options.bus, lines, ctx.machine.physical, ctx.log)
    const root = bus
      .slot(0)
      .define({ vendorId: 0x1b36, deviceId: 0x0008, classCode: 0x0600, subsystemVendorId: 0x1af4, subsystemId: 0x1100 })

    ctx.mmio(ECAM_BYTES, ecam(bus), { at: options.ecamBase, name: 'pcie-ecam' })
    ctx.mmio(PIO_BYTES, new AddressWindow(0, bus.ports), { at: options.pioBase, name: 'pcie-pio' })
    for (const [base, size] of [
      [options.mmioBase, options.mmioBytes],
      [options.mmio64Base, options.mmio64Bytes],
    ] as const) {
      ctx.mmio(size, new AddressWindow(base, bus.memoryEntries), { at: base, name: 'pcie-mmio' })
    }
    ctx.registerVmstate(rootVmstate, { parent_obj: root.state }, { path: '0000:00:00.0' })
    ctx.registerVmstate(hostVmstate, hostVmstate.createState(), { path: '' })
    ctx.registerVmstate(busVmstate, { nirq: INTX_LINES, irq_count: bus.irqCount }, { path: '' })
    ctx.machine.provideBus(bus)
    ctx.machine.provideIommuAttachPoint({
      bus: bus.name,
      functionAt: (sourceId) => bus.function(sourceId)?.address,
      setIommu: (iommu) => bus.setIommu(iommu),
    })
    return {
      reset: () => root.reset(),
      resume: () => bus.recount(),
    }
  },
})

/** Spec: PCI Express Base Specification, section 7.2.2 (offset = bus, function number, register). */
function ecam(bus: PciBus): MmioRegion {
  const target = (offset: number) => {
    const register = offset % 2 ** ECAM_FUNCTION_SHIFT
    if (offset >= 2 ** ECAM_BUS_SHIFT || register >= CONFIG_BYTES) return undefined
    const fn = bus.function(offset >> ECAM_FUNCTION_SHIFT)
    return fn && { fn, register }
  }
  return {
    read(offset, size) {
      const at = target(offset)
      if (at && at.register + size <= CONFIG_BYTES) return at.fn.readConfig(at.register, size)
      return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff
    },
    write(offset, size, value) {
      const at = target(offset)
      if (at && at.register + size <= CONFIG_BYTES) at.fn.writeConfig(at.register, size, value)
    },
  }
}

function gpexOptions(): StandardSchema<GpexOptions, typeof defaults> {
  return {
    '~standard': {
      version: 1,
      vendor: 'ferryvm',
      validate(value) {
        const given = Object.entries((value ?? {}) as object).filter(([, v]) => v !== undefined)
        const unknown = given.find(([key]) => !(key in defaults))
        if (unknown) return { issues: [{ message: 'is not an option of the host bridge', path: [unknown[0]] }] }
        const bad = given.find(([key, v]) => typeof v !== typeof defaults[key as keyof typeof defaults])
        if (bad)
          return {
            issues: [{ message: `must be a ${typeof defaults[bad[0] as keyof typeof defaults]}`, path: [bad[0]] }],
          }
        return { value: { ...defaults, ...Object.fromEntries(given) } }
      },
    },
  }
}
