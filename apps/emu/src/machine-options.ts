import { Drive } from '@ferryvm/block/node'
import { type BootFiles, VIRT_PROFILES, type VirtProfile, virtBoard } from '@ferryvm/board-virt'
import type { BlockBackend, DeviceSpec, Logger, Machine, Plugin } from '@ferryvm/core'
import type { InterruptControllers } from '@ferryvm/devices-virt'
import { embeddedGuestImage } from '@ferryvm/embedded-guest'
import { createMachine } from '@ferryvm/machine'
import { slirp, UserNet } from '@ferryvm/netdev'
import type { Backends } from './backends.ts'
import { openBootFile } from './boot-file.ts'
import { DeviceCatalog } from './device-options.ts'
import { isOn, type Keyvals, parseSize } from './keyval.ts'
import { MemoryBackend } from './memory-backend.ts'
import { loadPlugin } from './plugins.ts'
import type { RunOptions } from './run-options.ts'
import { UsageError } from './usage-error.ts'

const PROFILES = Object.keys(VIRT_PROFILES) as VirtProfile[]
const FIRST_MAC_BYTE = 0x56
const PROPERTIES = ['profile', 'acpi', 'aia', 'aia-guests', 'timer-nudge', 'check-load-order', 'memory-backend']
const ACPI = ['auto', 'on', 'off']
const AIA = ['none', 'aplic', 'aplic-imsic']
const MAX_AIA_GUESTS = 7

export interface BuiltMachine {
  readonly machine: Machine
  readonly plugins: readonly Plugin[]
  readonly drives: ReadonlyMap<string, Drive>
}

/** @throws UsageError, DeviceConfigError: what is wrong with the options; nothing is left open */
export async function buildMachine(
  options: RunOptions,
  backends: Backends,
  log: Logger,
  memoryBackends: readonly MemoryBackend[] = MemoryBackend.among(options.objects).backends,
): Promise<BuiltMachine> {
  const {
    type: _,
    profile = 'qemu-7.2',
    acpi = 'auto',
    aia = 'none',
    'aia-guests': aiaGuests = '0',
    'timer-nudge': timerNudge = 'on',
    'check-load-order': checkLoadOrder,
    'memory-backend': memoryBackend,
    ...unknown
  } = options.machine
  const strange = Object.keys(unknown)[0]
  if (strange)
    throw new UsageError(`-M virt,${strange}: unknown machine property (there are: ${PROPERTIES.join(', ')})`)
  if (!PROFILES.includes(profile as VirtProfile)) {
    throw new UsageError(`-M virt,profile=${profile}: unknown profile (there are: ${PROFILES.join(', ')})`)
  }
  if (!ACPI.includes(acpi)) throw new UsageError(`-M virt,acpi=${acpi}: there are ${ACPI.join(', ')}`)
  if (acpi === 'on' && !VIRT_PROFILES[profile as VirtProfile].acpi) {
    throw new UsageError(`-M virt,acpi=on: stock QEMU has it with profile=qemu-10.0`)
  }
  const interrupts = interruptControllers(aia, aiaGuests)
  const memory = memoryBackend === undefined ? undefined : chosenBackend(memoryBackend, memoryBackends, options)
  const plugins = await Promise.all(options.plugins.map(loadPlugin))
  const drives = new Map<string, Drive>()
  const closeDrives = async () => {
    for (const drive of drives.values()) await drive.close()
  }
  try {
    // Both machines of a COLO pair have the disk open; its fence says who may use it.
    const paired = Object.keys(options.colo).length > 0
    for (const { id, file, format, readOnly, unlocked } of options.drives) {
      if (drives.has(id)) throw new UsageError(`-drive id=${id}: that id is taken`)
      const drive = await Drive.open(file, {
        format,
        readOnly,
        unlocked: unlocked || paired,
        inactive: options.incoming !== undefined && !paired,
        warn: (message) => log.warn(message),
      }).catch((cause: Error) => {
        throw new UsageError(`-drive file=${file}: ${cause.message}`, { cause })
      })
      drives.set(id, drive)
    }
    const machine = await createMachine(
      virtBoard({
        ...bootFiles(options),
        profile: profile as VirtProfile,
        acpi: acpi === 'auto' ? undefined : acpi === 'on',
        interrupts,
        timerNudge: isOn(timerNudge),
        checkLoadOrder: isOn(checkLoadOrder),
        harts: options.harts,
        accel: options.accel,
        ramBytes: memory?.sizeBytes ?? options.memoryBytes,
        ram: memory && { idstr: memory.id, backing: memory.backing },
        serial: backends.serial,
        devices: deviceSpecs(options, plugins, drives, backends),
        log,
      }),
    )
    memory?.belongsTo(machine)
    return { machine, plugins, drives }
  } catch (error) {
    await closeDrives()
    throw error
  }
}

/** Guests without an IMSIC are allowed, as in QEMU, and mean nothing. */
function interruptControllers(aia: string, aiaGuests: string): InterruptControllers {
  if (!AIA.includes(aia)) throw new UsageError(`-M virt,aia=${aia}: there are ${AIA.join(', ')}`)
  const guests = Number(aiaGuests)
  if (!/^\d+$/.test(aiaGuests) || guests > MAX_AIA_GUESTS) {
    throw new UsageError(`-M virt,aia-guests=${aiaGuests}: a number from 0 to ${MAX_AIA_GUESTS}`)
  }
  return aia === 'none' ? { kind: 'plic' } : aia === 'aplic' ? { kind: 'aplic' } : { kind: 'aplic-imsic', guests }
}

/** @throws UsageError there is none of that name, or -m says another size */
function chosenBackend(id: string, backends: readonly MemoryBackend[], options: RunOptions): MemoryBackend {
  const backend = backends.find((b) => b.id === id)
  if (!backend) throw new UsageError(`-M virt,memory-backend=${id}: there is no -object memory-backend-… of that id`)
  if (options.memoryGiven && options.memoryBytes !== backend.sizeBytes) {
    throw new UsageError(`-m: ${options.memoryBytes} bytes, and the memory back-end '${id}' has ${backend.sizeBytes}`)
  }
  return backend
}

function bootFiles({ machine, bios, kernel, initrd, append, guest }: RunOptions): BootFiles {
  const file = (option: string, path: string | undefined) =>
    path === undefined ? undefined : openBootFile(option, path)
  if (!kernel && (!bios || bios === 'none')) {
    if (initrd || append) throw new UsageError(`${initrd ? '-initrd' : '-append'}: needs -kernel`)
    if (machine.aia !== undefined && machine.aia !== 'none') {
      throw new UsageError(`-M virt,aia=${machine.aia}: the embedded guest knows the PLIC only; give a -kernel`)
    }
    return { kernel: embeddedGuest(guest) }
  }
  if (Object.keys(guest).length > 0)
    throw new UsageError('-guest: only the embedded guest has parameters; leave out -kernel and -bios')
  const firmware = bios === 'none' ? undefined : file('-bios', bios)
  return { bios: firmware, kernel: file('-kernel', kernel), initrd: file('-initrd', initrd), append }
}

/** @throws UsageError an unknown parameter, or one out of range */
function embeddedGuest(params: Keyvals): Uint8Array {
  const options = Object.entries(params).map(([key, value]) => [
    key,
    value === 'on' || value === 'off' ? value === 'on' : key === 'seed' ? BigInt(value) : parseSize(value),
  ])
  try {
    return embeddedGuestImage(Object.fromEntries(options))
  } catch (cause) {
    throw new UsageError(`-guest: ${(cause as Error).message}`, { cause })
  }
}

function deviceSpecs(
  options: RunOptions,
  plugins: readonly Plugin[],
  drives: ReadonlyMap<string, BlockBackend>,
  { chardevs, netdevs }: Backends,
): DeviceSpec[] {
  const catalog = new DeviceCatalog(
    plugins.flatMap((p) => p.devices ?? []),
    { drive: drives, chardev: chardevs, netdev: netdevs },
  )
  const implied = options.drives
    .filter((d) => d.interface === 'virtio')
    .map((d) => ({ driver: 'virtio-blk-pci', drive: d.id }))
  const networks = [...netdevs.values()].filter((network) => network instanceof UserNet)
  return [
    ...networks.map((network) => slirp({ network })),
    ...withMacs([...options.devices, ...implied]).map((device) => catalog.spec(device)),
  ]
}

/** Network cards without an address get the next one of those that QEMU gives. */
function withMacs(devices: readonly Keyvals[]): Keyvals[] {
  const taken = new Set(devices.map(({ mac }) => mac?.toLowerCase()))
  let last = FIRST_MAC_BYTE
  return devices.map((device) => {
    if (!/^virtio-net(-pci|-device)?$/.test(device.driver ?? '') || device.mac !== undefined) return device
    let mac: string
    do mac = `52:54:00:12:34:${(last++ & 0xff).toString(16).padStart(2, '0')}`
    while (taken.has(mac))
    return { ...device, mac }
  })
}

/** For `-device help`. */
export async function driverNames(options: RunOptions): Promise<string[]> {
  const plugins = await Promise.all(options.plugins.map(loadPlugin))
  return new DeviceCatalog(
    plugins.flatMap((p) => p.devices ?? []),
    {},
  ).drivers
}
