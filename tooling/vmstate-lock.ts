/**
 * The lock file of our tables: what streams of this build look like. `node --conditions=source tooling/vmstate-lock.ts`
 * says what has changed; with `--accept` the change becomes the new lock. A test runs the first half.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { VIRT_PROFILES, type VirtBoardOptions, type VirtProfile, virtBoard } from '@ferryvm/board-virt'
import { intelIommu } from '@ferryvm/devices-iommu'
import { memoryBlock, virtioBlk, virtioIommu, virtioNet, virtioRng, virtioSerial } from '@ferryvm/devices-virtio'
import { createMachine } from '@ferryvm/machine'
import { createMigration } from '@ferryvm/migration'
import {
  checkDumps,
  checkText,
  dumpTables,
  formatDump,
  parseDump,
  type VmstateChange,
  type VmstateDump,
} from '@ferryvm/stream'
import { sectionTables } from '../apps/emu/src/stream/section-tables.ts'

const PROFILES: readonly VirtProfile[] = ['qemu-7.2', 'qemu-10.0']
export const lockFile = fileURLToPath(new URL('../docs/vmstate.lock.json', import.meta.url))

/** Every table of every profile, each device once. */
export async function currentTables(): Promise<Record<string, VmstateDump>> {
  const dumps: Record<string, VmstateDump> = {}
  for (const profile of PROFILES) {
    const devices = [
      virtioBlk({ drive: memoryBlock(new Uint8Array(512)) }, { bus: 'pcie.0' }),
      virtioRng({}, { bus: 'pcie.0' }),
      virtioSerial({}, { bus: 'pcie.0' }),
      virtioNet({}, { bus: 'pcie.0' }),
    ]
    // A bus has one IOMMU at most, behind all others here: places of devices are the names of their tables.
    const iommus = [intelIommu({}), ...(VIRT_PROFILES[profile].virtioIommu ? [virtioIommu({}, { bus: 'pcie.0' })] : [])]
    const tables = new Map<string, ReturnType<typeof sectionTables>[number]>()
    const boards: Partial<VirtBoardOptions>[] = [
      ...iommus.map((iommu) => ({ devices: [...devices, iommu] })),
      { interrupts: { kind: 'aplic-imsic', guests: 0 } },
      { interrupts: { kind: 'aplic' } },
    ]
    for (const options of boards) {
      const board = virtBoard({ profile, ramBytes: 1 << 24, ...options })
      await using machine = await createMachine(board)
      await using _migration = createMigration({ machine, transports: [] })
      for (const table of sectionTables(machine)) tables.set(table.type, table)
    }
    dumps[profile] = dumpTables('virt', [...tables.values()])
  }
  return dumps
}

export function formatLock(dumps: Record<string, VmstateDump>): string {
  const entries = Object.entries(dumps).map(([profile, dump]) => [profile, JSON.parse(formatDump(dump))])
  return `${JSON.stringify(Object.fromEntries(entries), null, 1)}\n`
}

export function changesSinceLock(dumps: Record<string, VmstateDump>): VmstateChange[] {
  const lock: Record<string, unknown> = JSON.parse(readFileSync(lockFile, 'utf8'))
  return Object.keys({ ...lock, ...dumps }).flatMap((profile) => {
    const empty: VmstateDump = { machine: 'virt', devices: [] }
    const before = lock[profile] ? parseDump(JSON.stringify(lock[profile])) : empty
    return checkDumps(before, dumps[profile] ?? empty).map((c) => ({ ...c, where: `${profile} ${c.where}` }))
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const dumps = await currentTables()
  if (process.argv.includes('--accept')) writeFileSync(lockFile, formatLock(dumps))
  else {
    const changes = changesSinceLock(dumps)
    for (const line of checkText(changes)) console.log(line)
    if (changes.length > 0) process.exitCode = 1
  }
}
