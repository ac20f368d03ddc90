/**
 * Snapshots of a machine inside its disk images: savevm, loadvm, delvm and the jobs of the same names.
 * Spec: protocol.md section 12.
 */
import type { BlockBackend, DiskSnapshot, DiskSnapshots, Machine } from '@ferryvm/core'
import { MigrationBlockedError, SnapshotError } from '../errors.ts'
import type { Migration } from '../migration.ts'
import { isRunning } from '../status.ts'
import { vmStateReader, vmStateWriter } from './vm-state-channel.ts'

/** A disk of the machine. */
export interface NamedDrive {
  readonly name: string
  readonly backend: BlockBackend
}

export interface SnapshotsOptions {
  readonly machine: Machine
  readonly migration: Migration
  readonly drives: readonly NamedDrive[]
}

export interface SnapshotSelection {
  /** The disk that has the VM state. Default: the first that can. */
  readonly vmState?: string
  /** Default: all that can be written to. */
  readonly devices?: readonly string[]
}

/** What a machine's disks have of earlier states of it. */
export interface Snapshots {
  /**
   * The guest stands while it is saved, and goes on if it ran.
   * @param tag default: `vm-` and the time
   * @param options `replace`: one of that name goes once the new one is there; otherwise it is an error
   * @returns its name
   * @throws SnapshotError, or what an image or device throws; the guest goes on, what was saved before is still there
   */
  save(tag?: string, options?: SnapshotSelection & { readonly replace?: boolean }): Promise<string>
  /**
   * Guest and disks become what they were.
   * @param options `run`: whether the guest runs afterwards; default: if it did before
   * @throws SnapshotError nothing has changed @throws anything else: the machine stands in `restore-vm` and can load another
   */
  load(tag: string, options?: SnapshotSelection & { readonly run?: boolean }): Promise<void>
  /** From every disk that has it; no error where none does. @throws SnapshotError a disk cannot have snapshots */
  delete(tag: string, options?: Pick<SnapshotSelection, 'devices'>): Promise<void>
  /** Runs it when no snapshot is being made, loaded or deleted; those wait for it. */
  exclusive<T>(run: () => Promise<T>): Promise<T>
  /** Those of the disk that VM state is kept on, each with whether all other disks have it too; and what only others have. */
  list(): SnapshotListing
}

export interface SnapshotListing {
  /** Can be loaded: all disks have them. */
  readonly complete: readonly DiskSnapshot[]
  readonly partial: readonly { readonly device: string; readonly snapshots: readonly DiskSnapshot[] }[]
}

interface Disk {
  readonly name: string
  readonly images: DiskSnapshots
}

export function createSnapshots({ machine, migration, drives }: SnapshotsOptions): Snapshots {
  const named = (tag: string) => (s: DiskSnapshot) => s.name === tag

  const withImages = ({ name, backend }: NamedDrive): Disk => {
    if (backend.readOnly || !backend.snapshots) {
      const why = backend.readOnly ? 'is read-only' : 'is writable and its format has no snapshots: use qcow2'
      throw new SnapshotError(`device '${name}' ${why}`)
    }
    return { name, images: backend.snapshots }
  }
  const chosen = (names: readonly string[] | undefined): Disk[] => {
    if (names?.length === 0) throw new SnapshotError('At least one device is required for snapshot')
    const some = names?.map((name) => {
      const drive = drives.find((d) => d.name === name)
      if (!drive) throw new SnapshotError(`no block device node '${name}'`)
      return drive
    })
    return (some ?? drives.filter((d) => !d.backend.readOnly)).map(withImages)
  }
  const vmStateDisk = (disks: readonly Disk[], name: string | undefined): Disk => {
    if (name !== undefined && !drives.some((d) => d.name === name)) {
      throw new SnapshotError(`vmstate block device '${name}' does not exist`)
    }
    const disk = name === undefined ? disks[0] : disks.find((d) => d.name === name)
    if (disk) return disk
    throw new SnapshotError(
      name === undefined
        ? 'no block device can store vmstate for a snapshot'
        : `vmstate block device '${name}' is not among the devices`,
    )
  }
  const refuseNow = () => {
    if (isRunning(migration.status)) throw new SnapshotError(`a migration is in progress (${migration.status})`)
    if (machine.runState === 'inmigrate') throw new SnapshotError('the guest has not arrived here yet')
    if (machine.runState === 'postmigrate')
      throw new SnapshotError('the guest has left; it runs on the destination now')
    const { blockers } = machine.sections
    if (blockers.length > 0) throw new MigrationBlockedError(blockers)
  }

  let last: Promise<unknown> = Promise.resolve()
  const exclusive = <T>(run: () => Promise<T>): Promise<T> => {
    const result = last.then(run)
    last = result.catch(() => {})
    return result
  }

  const save: Snapshots['save'] = async (tag = timeTag(), { vmState, devices, replace = false } = {}) => {
    refuseNow()
    const disks = chosen(devices)
    const stateDisk = vmStateDisk(disks, vmState)
    if (!replace && disks.some(({ images }) => images.list().some(named(tag)))) {
      throw new SnapshotError(`Snapshot '${tag}' already exists in one or more devices`)
    }
    const before = machine.runState
    if (before === 'restore-vm') {
      throw new SnapshotError('the machine could not be loaded: load another snapshot first')
    }
    await machine.stop('save-vm')
    try {
      const now = Date.now()
      const writer = vmStateWriter(stateDisk.images)
      try {
        await migration.saveState(writer, before)
        await createEverywhere(disks, (disk) => ({
          name: tag,
          dateSeconds: Math.floor(now / 1000),
          dateNanoseconds: (now % 1000) * 1_000_000,
          vmClockNs: machine.clock.ns,
          vmStateBytes: disk === stateDisk ? writer.bytes : 0,
        }))
      } finally {
        await stateDisk.images.discardVmState()
      }
    } finally {
      // Whoever changed the run state meanwhile has the last word.
      if (machine.runState === 'save-vm') {
        if (before === 'running') machine.start()
        else machine.setRunState(before)
      }
    }
    return tag
  }

  const load: Snapshots['load'] = async (tag, { vmState, devices, run } = {}) => {
    refuseNow()
    const disks = chosen(devices)
    const stateDisk = vmStateDisk(disks, vmState)
    const found = disks.map(({ images }) => ({ images, snapshot: images.list().find(named(tag)) }))
    if (found.some((f) => !f.snapshot))
      throw new SnapshotError(`Snapshot '${tag}' does not exist in one or more devices`)
    const state = stateDisk.images.list().find(named(tag))!
    if (state.vmStateBytes === 0) {
      throw new SnapshotError(
        `snapshot '${tag}' is of the disk alone; go back to it with "emu img snapshot -a" while no machine uses the disk`,
      )
    }
    const before = machine.runState
    await machine.stop('restore-vm')
    for (const { images, snapshot } of found) await images.apply(snapshot!.id)
    await machine.reset('snapshot-load')
    await migration.loadState(await vmStateReader(stateDisk.images, state.id, state.vmStateBytes))
    for (const { device } of machine.devices) device.renewIdentity?.()
    if (run ?? before === 'running') machine.start()
    else machine.setRunState(before === 'restore-vm' ? 'paused' : before)
    migration.announceSelf()
  }

  const remove: Snapshots['delete'] = async (tag, { devices } = {}) => {
    for (const { images } of chosen(devices)) {
      for (const { id } of images.list().filter(named(tag))) await images.delete(id)
    }
  }

  return {
    save: (tag, options) => exclusive(() => save(tag, options)),
    load: (tag, options) => exclusive(() => load(tag, options)),
    delete: (tag, options) => exclusive(() => remove(tag, options)),
    exclusive,

    list() {
      const disks = drives
        .filter(({ backend }) => !backend.readOnly && backend.snapshots)
        .map(({ name, backend }) => ({ name, images: backend.snapshots! }))
      const onAll = (s: DiskSnapshot) => disks.every(({ images }) => images.list().some(named(s.name)))
      const partial = disks.map(({ name, images }) => ({
        device: name,
        snapshots: images.list().filter((s) => !onAll(s)),
      }))
      return {
        complete: disks[0]?.images.list().filter((s) => onAll(s) && s.vmStateBytes > 0) ?? [],
        partial: partial.filter((p) => p.snapshots.length > 0),
      }
    },
  }

  /** On all or none. One image replaces the old one in a single step; of several, the old ones go when all new ones are there. */
  async function createEverywhere(
    disks: readonly Disk[],
    what: (disk: Disk) => Omit<DiskSnapshot, 'id' | 'icount'>,
  ): Promise<void> {
    if (disks.length === 1) {
      const { images } = disks[0]!
      const facts = what(disks[0]!)
      await images.create({ ...facts, replaces: images.list().find(named(facts.name))?.id })
      return
    }
    const made: { readonly images: DiskSnapshots; readonly id: string; readonly name: string }[] = []
    try {
      for (const disk of disks) {
        const facts = what(disk)
        made.push({ images: disk.images, id: (await disk.images.create(facts)).id, name: facts.name })
      }
    } catch (error) {
      for (const { images, id } of made) await images.delete(id)
      throw error
    }
    for (const { images, id, name } of made) {
      for (const old of images.list().filter((s) => s.name === name && s.id !== id)) await images.delete(old.id)
    }
  }
}

/** `vm-20261128121009`, in local time. */
function timeTag(): string {
  const d = new Date()
  const parts = [d.getMonth() + 1, d.getDate(), d.getHours(), d.getMinutes(), d.getSeconds()]
  return `vm-${d.getFullYear()}${parts.map((n) => String(n).padStart(2, '0')).join('')}`
}
