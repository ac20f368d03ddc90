import type { Machine } from '@ferryvm/core'
import { MonitorCommandError } from '../errors.ts'
import type { Jobs } from '../jobs.ts'
import type { QmpEventData, QmpEventName } from '../qmp/events.ts'
import { type BlockNode, BlockNodes, type StorageOptions } from './block-nodes.ts'
import { MirrorJobs } from './mirror-jobs.ts'
import { NbdExports } from './nbd-exports.ts'

/** @throws MonitorCommandError the guest uses the disk, or may at any time, and somebody else would write to it */
export function refuseSecondWriter({ runState }: Machine, { drive, name }: BlockNode, writable = false): void {
  if (!drive || !writable || runState === 'inmigrate') return
  throw new MonitorCommandError(
    `Conflicts with use by ${drive.device} as 'root', which does not allow 'write' on ${name}`,
  )
}

/** What commands on disks work with. */
export class Storage {
  readonly nodes: BlockNodes
  readonly exports: NbdExports
  readonly mirrors: MirrorJobs

  constructor(
    options: StorageOptions,
    jobs: Jobs,
    emit: <E extends QmpEventName>(name: E, data: QmpEventData<E>) => void,
  ) {
    this.nodes = new BlockNodes(options)
    this.exports = new NbdExports(this.nodes, (facts) => emit('BLOCK_EXPORT_DELETED', facts))
    this.mirrors = new MirrorJobs(this.nodes, jobs, emit)
  }

  /** Nodes with a connection that {@link yank} would shut. */
  get connections(): readonly string[] {
    return this.nodes.all.filter(({ nbd }) => nbd && !nbd.failure).map(({ name }) => name)
  }

  yank(name: string): void {
    this.#node(name)?.nbd?.yank(new MonitorCommandError(`the connection of node ${name} was shut by yank`))
  }

  #node(name: string): BlockNode | undefined {
    return this.nodes.all.find((node) => node.name === name)
  }

  /** Lets go of whatever was added. */
  async close(): Promise<void> {
    await this.mirrors.close()
    await this.exports.close()
    await this.nodes.close()
  }
}
