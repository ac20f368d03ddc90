import type { Drive } from '@ferryvm/block/node'
import type { Logger } from '@ferryvm/core'
import type { ForkPoint, Migration } from '@ferryvm/migration'
import type { ForkReply } from '@ferryvm/monitor'
import type { RunOptions } from '../run-options.ts'
import { type DiskFork, prepareDiskFork } from './fork-disks.ts'
import { type ForkServer, serveFork } from './fork-server.ts'

/** What is kept for a twin that fetches all: beyond it the parent waits with its writes. */
const MAX_KEPT_BYTES = 256 * 2 ** 20
/** Options that a twin has its own of, or none: ends on the host, where the guest comes from, disks. */
const NOT_INHERITED: ReadonlySet<string> = new Set([
  ...['--serial', '--monitor', '--qmp', '--nographic', '--trace', '--profile', '--symbols', '--name', '--uuid'],
  ...['--incoming', '--lazy', '--loadvm', '-S', '--colo', '--postcopy-journal', '--report-sections', '--drive'],
])

export interface ForksParts {
  readonly options: RunOptions
  readonly migration: Migration
  readonly drives: ReadonlyMap<string, Drive>
  readonly log: Logger
}

/** Forks of one `emu run`. */
export class Forks {
  readonly #parts: ForksParts
  readonly #running = new Set<Promise<void>>()

  constructor(parts: ForksParts) {
    this.#parts = parts
  }

  /** @throws ForkError, MigrationStateError, ImageError: the machine goes on */
  async fork(): Promise<ForkReply> {
    const { options, migration, drives, log } = this.#parts
    const disks = new Map<string, DiskFork>()
    let server: ForkServer
    let point: ForkPoint | undefined
    try {
      for (const { id } of options.drives) disks.set(id, await prepareDiskFork(drives.get(id)!))
      point = await migration.fork({
        maxKeptBytes: MAX_KEPT_BYTES,
        async whileStopped() {
          for (const disk of disks.values()) await disk.apply()
        },
      })
      server = await serveFork(point)
    } catch (error) {
      point?.[Symbol.dispose]()
      for (const disk of disks.values()) await disk.undo()
      throw error
    }
    const { uri, ended } = server
    const running = ended.finally(() => this.#running.delete(running))
    this.#running.add(running)
    for (const { id, readOnly } of options.drives) {
      if (!readOnly) log.warn(`drive ${id} is ${drives.get(id)!.path} from now on; its base is shared with the twin`)
    }
    const inherited = options.given.filter(([name]) => !NOT_INHERITED.has(name!)).flat()
    const driveArguments = options.drives.flatMap((drive) => {
      const { file, format } = disks.get(drive.id)!
      const { id, node, readOnly, interface: kind } = drive
      const facts = [
        `file=${file.replaceAll(',', ',,')}`,
        `format=${format}`,
        `id=${id}`,
        `node-name=${node}`,
        `if=${kind}`,
      ]
      return ['--drive', [...facts, ...(readOnly ? ['readonly=on'] : [])].join(',')]
    })
    return { uri, arguments: [...inherited, ...driveArguments], downtime: Math.round(point.pauseMs) }
  }

  /** Resolves when all twins have what they need, or are gone. */
  async finish(): Promise<void> {
    await Promise.all(this.#running)
  }
}
