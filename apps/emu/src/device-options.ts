import { virtDevices } from '@ferryvm/board-virt'
import type { BlockBackend, DeviceFactory, DeviceSpec, Placement } from '@ferryvm/core'
import type { Keyvals } from './keyval.ts'
import { UsageError } from './usage-error.ts'

/** Options that say where a device sits and not what it is. */
const PLACE_OPTIONS = ['disable-legacy', 'disable-modern', 'vectors', 'iommu_platform', 'ats'] as const
const BUS_SUFFIX: Record<string, string> = { pci: 'pcie.0', device: 'virtio-mmio' }

/** Turns `-device` options into device specs; knows the board's drivers and those of plugins. */
export class DeviceCatalog {
  readonly #factories = new Map<string, DeviceFactory<any>>()
  readonly #drives: ReadonlyMap<string, BlockBackend>
  readonly #usedDrives = new Set<string>()

  constructor(plugins: readonly DeviceFactory<any>[], drives: ReadonlyMap<string, BlockBackend>) {
    for (const factory of [...virtDevices, ...plugins]) this.#factories.set(factory.type, factory)
    this.#drives = drives
  }

  /** Names that `-device` takes; a virtio device has one per bus. */
  get drivers(): string[] {
    return [...this.#factories.values()].flatMap(({ type, definition }) =>
      definition.bus === 'virtio' ? [`${type}-pci`, `${type}-device`] : [type],
    )
  }

  /** @throws UsageError unknown driver, unknown or doubly used drive */
  spec({ driver = '', id, addr, bus, drive, ...rest }: Keyvals): DeviceSpec {
    const [factory, defaultBus] = this.#find(driver)
    const options: Record<string, unknown> = {}
    for (const key of PLACE_OPTIONS) {
      if (key in rest) {
        options[key] = rest[key]
        delete rest[key]
      }
    }
    const props: Record<string, unknown> = rest
    if (drive !== undefined) props.drive = this.#drive(driver, drive)
    const placement: Placement = { id, addr, bus: bus ?? defaultBus, options }
    return factory(props, placement)
  }

  #find(driver: string): [DeviceFactory<any>, string | undefined] {
    const exact = this.#factories.get(driver)
    if (exact) return [exact, exact.definition.bus === 'virtio' ? BUS_SUFFIX.pci : undefined]
    const suffix = /^(.+)-(pci|device)$/.exec(driver)
    const virtio = suffix && this.#factories.get(suffix[1]!)
    if (virtio && virtio.definition.bus === 'virtio') return [virtio, BUS_SUFFIX[suffix[2]!]]
    throw new UsageError(`-device ${driver}: no such driver (there are: ${this.drivers.join(', ')})`)
  }

  #drive(driver: string, id: string): BlockBackend {
    const drive = this.#drives.get(id)
    if (!drive) throw new UsageError(`-device ${driver},drive=${id}: there is no -drive with id=${id}`)
    if (this.#usedDrives.has(id))
      throw new UsageError(`-device ${driver},drive=${id}: that drive is in use by another device`)
    this.#usedDrives.add(id)
    return drive
  }
}
