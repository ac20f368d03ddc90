import { virtBoard } from '@ferryvm/board-virt'
import { type Channel, FerryError, type Machine, type Transport } from '@ferryvm/core'
import { intelIommu } from '@ferryvm/devices-iommu'
import {
  memoryBlock,
  virtconsole,
  virtioBlk,
  virtioIommu,
  virtioNet,
  virtioRng,
  virtioSerial,
  virtserialport,
} from '@ferryvm/devices-virtio'
import { createMachine } from '@ferryvm/machine'
import { createMigration, type Migration } from '@ferryvm/migration'
import { slirp, UserNet } from '@ferryvm/netdev'
import type { Random } from '../lockstep/random.ts'
import { type Specimen, specimen } from './corpus.ts'
import { type Finding, findingOf } from './finding.ts'

const MiB = 2 ** 20
const drive = memoryBlock(new Uint8Array(4 * MiB))

interface Guest {
  /** Recorded streams that this machine takes in; empty: it sends one itself. */
  readonly recorded: readonly string[]
  readonly board: Parameters<typeof virtBoard>[0]
}
const both = (name: string) => [`rv72-${name}`, `rv100-${name}`]
const GUESTS: readonly Guest[] = [
  {
    recorded: both('bm-pci-smp2'),
    board: {
      harts: 2,
      profile: 'qemu-10.0',
      devices: [virtioBlk({ drive }, { bus: 'pcie.0' }), virtioRng({}, { bus: 'pcie.0' })],
    },
  },
  {
    recorded: [],
    board: {
      harts: 2,
      devices: [
        intelIommu({}),
        virtioBlk({ drive }, { bus: 'pcie.0', options: { 'disable-legacy': 'on', iommu_platform: 'on' } }),
        virtioRng({}, { bus: 'virtio-mmio' }),
      ],
    },
  },
  { recorded: [...both('bm-bare'), ...both('bm-uart-pending'), ...both('reset-default')], board: { harts: 1 } },
  {
    recorded: both('bm-mmio-smp2'),
    board: { harts: 2, devices: [virtioBlk({ drive }, { bus: 'virtio-mmio' }), virtioRng({}, { bus: 'virtio-mmio' })] },
  },
  {
    recorded: both('reset-pci4-norom'),
    board: {
      devices: [
        slirp({ network: new UserNet() }),
        virtioBlk({ drive }, { bus: 'pcie.0' }),
        virtioNet({ romfile: '' }, { bus: 'pcie.0' }),
        virtioRng({}, { bus: 'pcie.0' }),
        virtioSerial({}, { bus: 'pcie.0' }),
        virtconsole({}),
        virtserialport({ name: 'org.test.0' }),
      ],
    },
  },
  {
    recorded: ['rv100-bm-viommu-smp2'],
    board: {
      harts: 2,
      profile: 'qemu-10.0',
      devices: [
        virtioIommu({}, { bus: 'pcie.0' }),
        virtioBlk({ drive }, { bus: 'pcie.0', options: { 'disable-legacy': 'on', iommu_platform: 'on' } }),
        virtioRng({}, { bus: 'pcie.0' }),
      ],
    },
  },
  { recorded: [...both('bm-stopped-smp2'), ...both('reset-smp2')], board: { harts: 2, profile: 'qemu-10.0' } },
]
export const guestCount = GUESTS.length

/** Cases between two looks whether a good stream still loads. */
const HEALTH_CASES = 500
/** Of streams that load, this share is let run. */
const RUN_CHANCE = 0.02

/** The real incoming side: a whole machine with its devices, its migration, and a wire that delivers these bytes. */
export class LoaderTarget implements AsyncDisposable {
  readonly specimens: readonly Specimen[]
  readonly #machine: Machine
  #migration: Migration
  #stream = new Uint8Array(0)
  #pieceBytes = 1
  #cases = 0

  static async create(guest: number, all: readonly Specimen[]): Promise<LoaderTarget> {
    const { recorded, board } = GUESTS[guest]!
    const machine = await createMachine(virtBoard({ ramBytes: 16 * MiB, checkLoadOrder: true, ...board }))
    const names = new Set(recorded)
    const specimens = all.filter((s) => names.has(s.name))
    if (specimens.length === 0) specimens.push(await ownStream(machine))
    return new LoaderTarget(machine, specimens)
  }

  private constructor(machine: Machine, specimens: readonly Specimen[]) {
    this.#machine = machine
    this.specimens = specimens
    this.#migration = this.#newMigration()
  }

  #newMigration(): Migration {
    return createMigration({ machine: this.#machine, transports: [memoryTransport(() => this.#wire())] })
  }

  /** What the loader does with a damaged stream, and whether the machine is of use afterwards. */
  async fuzz(damaged: Uint8Array, random: Random): Promise<Finding | undefined> {
    const finding = await this.load(damaged, random)
    if (finding || ++this.#cases % HEALTH_CASES !== 0) return finding
    const whole = random.pick(this.specimens)
    const sick = await this.load(whole.bytes, random, true)
    return sick && { ...sick, what: `after ${HEALTH_CASES} cases ${whole.name} no longer loads: ${sick.what}` }
  }

  /** `mustLoad`: a refusal is a finding, too. */
  async load(stream: Uint8Array, random: Random, mustLoad = false): Promise<Finding | undefined> {
    this.#stream = stream as Uint8Array<ArrayBuffer>
    this.#pieceBytes = random.pick([64, 1000, 65536, 1 << 20])
    const machine = this.#machine
    const { done } = await this.#migration.incoming('memory:', { autostart: false })
    let refused: unknown
    await done.catch((error: unknown) => (refused = error))
    if (refused !== undefined && (mustLoad || !FerryError.isInstance(refused))) return findingOf(refused)
    if (refused === undefined) {
      if (random.chance(RUN_CHANCE)) {
        machine.start()
        await new Promise((resolve) => setTimeout(resolve, 5))
        await machine.stop()
      }
      // One migration takes in one guest.
      await this.#migration[Symbol.asyncDispose]()
      this.#migration = this.#newMigration()
    }
    await machine.reset()
    machine.setRunState('prelaunch')
    return undefined
  }

  #wire(): Channel {
    let at = 0
    return {
      features: new Set(['shutdown']),
      read: (into) => {
        const piece = this.#stream.subarray(at, at + Math.min(into.length, this.#pieceBytes))
        into.set(piece)
        at += piece.length
        return piece.length
      },
      write() {},
      shutdown: async () => {},
      close: async () => {},
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#migration[Symbol.asyncDispose]()
    await this.#machine[Symbol.asyncDispose]()
  }
}

/** What the machine itself sends, before it has run. */
async function ownStream(machine: Machine): Promise<Specimen> {
  const chunks: Uint8Array[] = []
  const record: Channel = {
    features: new Set(),
    read: () => 0,
    write: (buffers) => void chunks.push(...buffers.map((b) => b.slice())),
    shutdown: async () => {},
    close: async () => {},
  }
  await using migration = createMigration({ machine, transports: [memoryTransport(() => record)] })
  await migration.migrate('memory:')
  machine.setRunState('prelaunch')
  return specimen('own', Buffer.concat(chunks))
}

function memoryTransport(wire: () => Channel): Transport<string> {
  return {
    scheme: 'memory',
    features: new Set(),
    parseAddress: (text) => text,
    formatAddress: (text) => text,
    connect: async () => wire(),
    listen: async (address) => ({
      address,
      async *[Symbol.asyncIterator]() {
        yield wire()
      },
      [Symbol.asyncDispose]: async () => {},
    }),
  }
}
