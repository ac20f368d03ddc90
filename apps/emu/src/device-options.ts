import { virtDevices } from '@ferryvm/board-virt'
import type { DeviceFactory, DeviceSpec, Placement } from '@ferryvm/core'
import type { Keyvals } from './keyval.ts'
import { UsageError } from './usage-error.ts'

/** Options that say where a device sits and not what it is. */
const PLACE_OPTIONS = ['disable-legacy', 'disable-modern', 'vectors', 'iommu_platform', 'ats'] as const
const BUS_SUFFIX: Record<string, string> = { pci: 'pcie.0', device: 'virtio-mmio' }

/** Virtio devices that exist on one bus only: this one translates for a PCI bus that it sits on. */
const PCI_ONLY: ReadonlySet<string> = new Set(['virtio-iommu'])

/** Properties that name one of the host's ends, given by an option of the same name: `drive=hd0` is what `-drive id=hd0` made. */
const BACKEND_PROPERTIES = ['drive', 'chardev', 'netdev'] as const
/** By property, then by id. */
export type DeviceBackends = {
  readonly [property in (typeof BACKEND_PROPERTIES)[number]]?: ReadonlyMap<string, object>
}

/** Turns `-device` options into device specs; knows the board's drivers and those of plugins. */
export class DeviceCatalog {
  readonly #factories = new Map<string, DeviceFactory<any>>()
  readonly #backends: DeviceBackends
  readonly #used = new Set<object>()

  constructor(plugins: readonly DeviceFactory<any>[], backends: DeviceBackends) {
    for (const factory of [...virtDevices, ...plugins]) this.#factories.set(factory.type, factory)
    this.#backends = backends
  }

  /** Names that `-device` takes; a virtio device has one per bus. */
  get drivers(): string[] {
    return [...this.#factories.values()].flatMap(({ type, definition }) =>
      definition.bus !== 'virtio' ? [type] : PCI_ONLY.has(type) ? [`${type}-pci`] : [`${type}-pci`, `${type}-device`],
    )
  }

  /** @throws UsageError unknown driver, unknown or doubly used backend */
  spec({ driver = '', id, addr, bus, ...rest }: Keyvals): DeviceSpec {
    const [factory, defaultBus] = this.#find(driver)
    const options: Record<string, unknown> = {}
    for (const key of PLACE_OPTIONS) {
      if (key in rest) {
        options[key] = rest[key]
        delete rest[key]
      }
    }
    const props: Record<string, unknown> = rest
    for (const property of BACKEND_PROPERTIES) {
      if (rest[property] !== undefined) props[property] = this.#backend(driver, property, rest[property])
    }
    const placement: Placement = { id, addr, bus: bus ?? defaultBus, options }
    return factory(props, placement)
  }

  #find(driver: string): [DeviceFactory<any>, string | undefined] {
    const exact = this.#factories.get(driver)
    if (exact) return [exact, exact.definition.bus === 'virtio' ? BUS_SUFFIX.pci : undefined]
    const [, type = '', bus = ''] = /^(.+)-(pci|device)$/.exec(driver) ?? []
    const virtio = this.#factories.get(type)
    if (virtio?.definition.bus === 'virtio' && this.drivers.includes(driver)) return [virtio, BUS_SUFFIX[bus]]
    throw new UsageError(`-device ${driver}: no such driver (there are: ${this.drivers.join(', ')})`)
  }

  #backend(driver: string, property: (typeof BACKEND_PROPERTIES)[number], id: string): object {
    const backend = this.#backends[property]?.get(id)
    if (!backend) throw new UsageError(`-device ${driver},${property}=${id}: there is no -${property} with id=${id}`)
    if (this.#used.has(backend))
      throw new UsageError(`-device ${driver},${property}=${id}: that ${property} is in use by another device`)
    this.#used.add(backend)
    return backend
  }
}
