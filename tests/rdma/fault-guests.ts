/** What is moved while faults strike: a pretended machine, quick, or one of ours with a guest that notices what it lost. */
import { join } from 'node:path'
import { nextTurn, type RunState, type Transport } from '@ferryvm/core'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { createMigration, type Migration } from '@ferryvm/migration'
import { createFakeMachine } from '../../packages/migration/src/testing/fake-machine.ts'
import { createDisk, createVm, diskBehindIommu } from '../harness/vm.ts'

export interface FaultMachine {
  readonly migration: Migration
  readonly runState: RunState
  start(): void
  /** The guest is here, and has lost nothing. @throws */
  whole(): Promise<void>
  dispose(): Promise<void>
}

export interface FaultGuest {
  /** Verbs of each side, and frames, of one migration are about as many. */
  readonly steps: number
  machine(transports: readonly Transport<any>[]): Promise<FaultMachine>
  /** It has been at work for a while in the first machine. */
  warm(): Promise<void>
}

const PAGES = 700

export const fakeGuest = (): FaultGuest => ({
  steps: 90,
  async machine(transports) {
    const machine = createFakeMachine({ ramPages: PAGES })
    const migration = createMigration({ machine, transports })
    return {
      migration,
      get runState() {
        return machine.runState
      },
      start: () => machine.start(),
      async whole() {
        await nextTurn()
        await machine.stop()
        if (machine.wrongPages().length > 0) throw new Error('pages differ')
      },
      async dispose() {
        await migration[Symbol.asyncDispose]()
        await machine.stop()
      },
    }
  },
  async warm() {},
})

const MiB = 2 ** 20
const PATIENCE_MS = 60_000
const kernel = embeddedGuestImage({
  dirtyBytes: 2 * MiB,
  dirtyBytesPerSecond: 4 * MiB,
  lcgStepsPerSecond: 100_000,
  linesPerSecond: 50,
})
let disks = 0

/** @param folder for its disk */
export function embeddedGuest(folder: string): FaultGuest {
  const disk = createDisk(join(folder, `disk-${++disks}.img`), 4 * MiB)
  const guest = createGuestMonitor()
  return {
    steps: 250,
    async machine(transports) {
      const vm = await createVm({
        kernel,
        ramBytes: 16 * MiB,
        devices: await diskBehindIommu(disk),
        onOutput: (text) => guest.push(text),
        migrationOptions: { transports },
      })
      return {
        migration: vm.migration,
        get runState() {
          return vm.machine.runState
        },
        start: () => vm.machine.start(),
        async whole() {
          const { lines } = guest
          await guest.until((g) => g.lines > lines + 2 || g.problems.length > 0, PATIENCE_MS)
          const verdicts = guest.verdicts.length
          vm.type('v')
          await guest.until((g) => g.verdicts.length > verdicts, PATIENCE_MS)
          const { ok, text } = guest.verdicts.at(-1)!
          if (!ok || guest.problems.length > 0) throw new Error([text, ...guest.problems].join(' | '))
        },
        dispose: async () => vm[Symbol.asyncDispose](),
      }
    },
    warm: () => guest.until((g) => (g.last?.requests ?? 0) > 10, PATIENCE_MS),
  }
}
