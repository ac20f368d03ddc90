import { type AddressSpace, defineDevice, defineVmstate, u32 } from '@ferryvm/core'

export interface OffsetIommuOptions {
  /** IOVA minus physical address. */
  readonly offset: number
  /** The requester that is translated; others see physical memory. */
  readonly sourceId: number
  /** On after reset. Default true. Off: that requester reaches nothing. */
  readonly on?: boolean
}

/** The simplest IOMMU: adds a constant. Whether it is on is its state, and migrates. */
export const offsetIommu = defineDevice({
  type: 'offset-iommu',
  props: {
    '~standard': { version: 1, vendor: 'test', validate: (value: unknown) => ({ value: value as OffsetIommuOptions }) },
  },
  migration: defineVmstate({ name: 'offset-iommu', version: 1, priority: 1, fields: { on: u32() } }),
  realize({ state, machine }, { offset, sourceId, on = true }) {
    const { physical } = machine
    const inside = (address: number, length: number) =>
      state.on !== 0 && address >= offset && address + length < 2 * offset
    const shifted: AddressSpace = {
      read: (address, into) => inside(address, into.length) && physical.read(address - offset, into),
      write: (address, from) => inside(address, from.length) && physical.write(address - offset, from),
    }
    machine.onIommuAttachPoint('pcie.0', (point) =>
      point.setIommu({ name: 'offset-iommu', addressSpace: (id) => (id === sourceId ? shifted : physical) }),
    )
    return {
      reset() {
        state.on = on ? 1 : 0
      },
    }
  },
})
