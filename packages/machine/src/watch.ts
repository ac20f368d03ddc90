import type {
  AddressSpace,
  HartPort,
  InterruptFile,
  Iommu,
  IommuAttachPoint,
  IrqLine,
  LoadOrderSanitizer,
  MmioRegion,
} from '@ferryvm/core'

/** Puts the order sanitizer between devices: whatever one device uses of another passes through here. */
export interface Watch {
  /** Registers of device `id`, as others reach them by DMA. */
  mmio(id: string, region: MmioRegion): MmioRegion
  /** Inputs of interrupt controller `id`. */
  line(id: string, line: IrqLine): IrqLine
  /** Interrupt inputs of the CPU. */
  harts(harts: readonly HartPort[]): readonly HartPort[]
  /** Translations of IOMMU `id`. */
  attachPoint(id: string, point: IommuAttachPoint): IommuAttachPoint
}

const nothing: Watch = {
  mmio: (_, region) => region,
  line: (_, line) => line,
  harts: (harts) => harts,
  attachPoint: (_, point) => point,
}

/** Owner of the CPU's sections, whose idstr it is. */
const CPU = 'cpu'

export function watchWith(sanitizer: LoadOrderSanitizer | undefined): Watch {
  if (!sanitizer) return nothing
  const line = (id: string, inner: IrqLine): IrqLine => ({
    set(level) {
      sanitizer.touch(id)
      inner.set(level)
    },
  })
  const space = (id: string, inner: AddressSpace): AddressSpace => ({
    read(address, into) {
      sanitizer.touch(id)
      return inner.read(address, into)
    },
    write(address, from) {
      sanitizer.touch(id)
      return inner.write(address, from)
    },
  })
  const iommu = (id: string, inner: Iommu): Iommu => ({
    name: inner.name,
    addressSpace: (sourceId) => space(id, inner.addressSpace(sourceId)),
  })
  const interruptFile = (inner: InterruptFile): InterruptFile => ({
    setPending(identity) {
      sanitizer.touch(CPU)
      inner.setPending(identity)
    },
    reset: () => inner.reset(),
    save: (into) => inner.save(into),
    load(from) {
      sanitizer.touch(CPU)
      inner.load(from)
    },
  })
  return {
    mmio: (id, region) => ({
      sizes: region.sizes,
      read(offset, bytes) {
        sanitizer.touch(id)
        return region.read(offset, bytes)
      },
      write(offset, bytes, value) {
        sanitizer.touch(id)
        region.write(offset, bytes, value)
      },
      read64: region.read64 && ((offset) => region.read64!(offset)),
      write64: region.write64 && ((offset, value) => region.write64!(offset, value)),
    }),
    line,
    harts: (harts) =>
      harts.map((hart) => ({
        index: hart.index,
        line: (bit) => line(CPU, hart.line(bit)),
        pending: (bit) => {
          sanitizer.touch(CPU)
          return hart.pending(bit)
        },
        setMtimecmp: (value) => {
          sanitizer.touch(CPU)
          hart.setMtimecmp(value)
        },
        interruptFiles: hart.interruptFiles && {
          machine: interruptFile(hart.interruptFiles.machine),
          supervisor: hart.interruptFiles.supervisor.map(interruptFile),
        },
      })),
    attachPoint: (id, point) => ({
      bus: point.bus,
      functionAt: (sourceId) => point.functionAt(sourceId),
      setIommu: (inner) => point.setIommu(iommu(id, inner)),
    }),
  }
}
