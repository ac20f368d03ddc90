import { truncateSync, writeFileSync } from 'node:fs'
import { rawFile } from '@ferryvm/block/node'
import { type VirtBoardOptions, virtBoard } from '@ferryvm/board-virt'
import type { DeviceSpec, Machine } from '@ferryvm/core'
import { nodeCompressions } from '@ferryvm/core/node'
import { ACCELERATORS } from '@ferryvm/cpu-riscv'
import { intelIommu } from '@ferryvm/devices-iommu'
import { virtioBlk } from '@ferryvm/devices-virtio'
import { createMachine } from '@ferryvm/machine'
import { createMigration, type Migration, type MigrationOptions } from '@ferryvm/migration'
import { exec } from '@ferryvm/transport-exec'
import { fd } from '@ferryvm/transport-fd'
import { file } from '@ferryvm/transport-file'
import { tcp, unix } from '@ferryvm/transport-socket'

/** A machine of a test, its serial line and its migration. */
export interface TestVm extends AsyncDisposable {
  readonly machine: Machine
  readonly migration: Migration
  type(text: string): void
}

export interface TestVmOptions extends Omit<VirtBoardOptions, 'serial'> {
  /** Gets what the guest prints. */
  onOutput(text: string): void
  /** Of its migration. */
  readonly migrationOptions?: Partial<
    Pick<MigrationOptions, 'channelLayers' | 'colo' | 'log' | 'transports' | 'blockDevices' | 'settings'>
  >
}

/** FERRY_ACCEL chooses the accelerator of every machine that a test makes. */
export const accel = ACCELERATORS.find((name) => name === process.env.FERRY_ACCEL)

export async function createVm({ onOutput, migrationOptions, ...board }: TestVmOptions): Promise<TestVm> {
  let listener: ((bytes: Uint8Array) => void) | undefined
  const decoder = new TextDecoder()
  const machine = await createMachine(
    virtBoard({
      accel,
      ...board,
      serial: {
        write: (bytes) => onOutput(decoder.decode(bytes, { stream: true })),
        onInput: (l) => {
          listener = l
          return { [Symbol.dispose]: () => void (listener = undefined) }
        },
      },
    }),
  )
  const migration = createMigration({
    machine,
    transports: [tcp(), unix(), exec(), fd(), file()],
    compressions: nodeCompressions,
    ...migrationOptions,
  })
  return {
    machine,
    migration,
    type: (text) => listener?.(new TextEncoder().encode(text)),
    async [Symbol.asyncDispose]() {
      await migration[Symbol.asyncDispose]()
      await machine[Symbol.asyncDispose]()
    },
  }
}

/** An empty raw disk image. */
export function createDisk(path: string, sizeBytes: number): string {
  writeFileSync(path, '')
  truncateSync(path, sizeBytes)
  return path
}

/** A virtio-blk function behind VT-d. `order: worst` creates the IOMMU after the device that needs it. */
export async function diskBehindIommu(
  path: string,
  { order = 'best', iommu = {} as object }: { order?: 'best' | 'worst'; iommu?: object } = {},
): Promise<DeviceSpec[]> {
  const disk = virtioBlk(
    { drive: await rawFile(path) },
    { bus: 'pcie.0', options: { 'disable-legacy': 'on', iommu_platform: 'on' } },
  )
  const vtd = intelIommu(iommu)
  return order === 'best' ? [vtd, disk] : [disk, vtd]
}

/** Moves the guest of `from` to `to`, which must not have run; resolves when it runs there. */
export async function move(from: TestVm, to: TestVm): Promise<void> {
  const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
  await Promise.all([from.migration.migrate(incoming.uri), incoming.done])
}
