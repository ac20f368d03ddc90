import { setTimeout as delay } from 'node:timers/promises'
import { FerryError } from '@ferryvm/core'
import type { QmpClient } from '../qmp-client.ts'

/** Looked at this often. */
const POLL_MS = 50
/** Ids of what is made here and taken away again. */
const PREFIX = 'emu-migrate-'

/** A guest did not move; it is where it was, with its disks. */
export class MoveError extends FerryError {
  readonly code = 'FERRY_EMU_MOVE'
}

export type NbdAddress =
  | { readonly type: 'inet'; readonly host: string; readonly port: string }
  | { readonly type: 'unix'; readonly path: string }

export interface MoveStorage {
  /** The monitor of the destination, which waits for the guest. */
  readonly destination: Pick<QmpClient, 'execute'>
  /** Where its NBD server is to listen, and be found from the source. */
  readonly address: NbdAddress
  /** Id of the TLS credentials that both ends have. */
  readonly tlsCreds?: string
}

export type MoveStep = 'disks' | 'memory' | 'switch'

export interface MoveOptions {
  readonly uri: string
  /** Its disks go along. */
  readonly storage?: MoveStorage
  /** Bytes of that step. */
  readonly progress?: (step: MoveStep, done: number, total: number) => void
}

interface Disk {
  readonly device: string
  /** Name of the destination's node. */
  readonly there: string
  /** Of the job, the node and the export that are made for it. */
  readonly id: string
}

/**
 * Moves a guest, and its disks if asked for: the disks are copied while it runs, memory follows, and before it stands still for
 * good the copies end as they are then. Any QMP monitor of ours or of stock QEMU will do at either end.
 * @throws MoveError, QmpCommandError; everything that was begun is undone
 */
export async function moveMachine(source: Pick<QmpClient, 'execute'>, options: MoveOptions): Promise<void> {
  if (!options.storage) {
    await source.execute('migrate', { uri: options.uri })
    await migrated(source, options)
    return
  }
  const disks = await disksToMove(source, options.storage)
  const pausing = { capabilities: [{ capability: 'pause-before-switchover', state: true }] }
  const paused = (await source.execute('query-migrate-capabilities')).find(
    (c: { capability: string }) => c.capability === pausing.capabilities[0]!.capability,
  )!.state as boolean
  try {
    await serve(options.storage, disks)
    await beginCopies(source, options.storage, disks)
    await copied(source, disks, options)
    await source.execute('migrate-set-capabilities', pausing)
    await source.execute('migrate', { uri: options.uri })
    await migrated(source, options, 'pre-switchover')
    options.progress?.('switch', 0, 1)
    await endCopies(source, disks)
    await stopServing(options.storage, disks)
    await source.execute('migrate-continue', { state: 'pre-switchover' })
    await migrated(source, options)
    options.progress?.('switch', 1, 1)
  } catch (error) {
    await giveUp(source, options.storage, disks)
    throw error
  } finally {
    if (!paused) {
      // The source may be gone, now that it has nothing to do.
      await source
        .execute('migrate-set-capabilities', { capabilities: [{ ...pausing.capabilities[0], state: false }] })
        .catch(() => {})
    }
  }
}

interface BlockReply {
  readonly device: string
  readonly inserted?: { readonly ro: boolean; readonly 'node-name': string }
}

/** Those that the guest can write to, with what they are at the destination. @throws MoveError there is no place for one */
async function disksToMove(source: Pick<QmpClient, 'execute'>, { destination }: MoveStorage): Promise<Disk[]> {
  const here = (await source.execute('query-block')) as BlockReply[]
  const there = (await destination.execute('query-block')) as BlockReply[]
  return here
    .filter(({ inserted }) => inserted && !inserted.ro)
    .map(({ device }, index) => {
      const node = there.find((other) => other.device === device)?.inserted?.['node-name']
      if (node === undefined)
        throw new MoveError(`the destination has no disk "${device}"; give both the same -drive id=`)
      return { device, there: node, id: `${PREFIX}${index}` }
    })
}

async function serve({ destination, address, tlsCreds }: MoveStorage, disks: readonly Disk[]): Promise<void> {
  const { type, ...data } = address
  await destination.execute('nbd-server-start', { addr: { type, data }, 'tls-creds': tlsCreds })
  for (const { id, there } of disks) {
    await destination.execute('block-export-add', { type: 'nbd', id, name: id, 'node-name': there, writable: true })
  }
}

async function beginCopies(
  source: Pick<QmpClient, 'execute'>,
  { address, tlsCreds }: MoveStorage,
  disks: readonly Disk[],
): Promise<void> {
  for (const { id, device } of disks) {
    await source.execute('blockdev-add', {
      driver: 'nbd',
      'node-name': id,
      server: address,
      export: id,
      'tls-creds': tlsCreds,
    })
    await source.execute('blockdev-mirror', {
      'job-id': id,
      device,
      target: id,
      sync: 'full',
      // It stays until it was asked how it ended.
      'auto-dismiss': false,
    })
  }
}

interface JobReply {
  readonly id: string
  readonly status: string
  readonly error?: string
  readonly 'current-progress': number
  readonly 'total-progress': number
}

async function jobsOf(source: Pick<QmpClient, 'execute'>, disks: readonly Disk[]): Promise<JobReply[]> {
  const jobs = (await source.execute('query-jobs')) as JobReply[]
  return disks.map(({ id, device }) => {
    const job = jobs.find((other) => other.id === id)
    if (!job) throw new MoveError(`the copy of the disk "${device}" was taken away`)
    return job
  })
}

/** The destination's disks are, and stay, what the source's are. */
async function copied(
  source: Pick<QmpClient, 'execute'>,
  disks: readonly Disk[],
  { progress }: MoveOptions,
): Promise<void> {
  for (;;) {
    const jobs = await jobsOf(source, disks)
    const sum = (member: 'current-progress' | 'total-progress') => jobs.reduce((bytes, job) => bytes + job[member], 0)
    progress?.('disks', sum('current-progress'), sum('total-progress'))
    refuseFailed(jobs, disks)
    if (jobs.every(({ status }) => status === 'ready')) return
    await delay(POLL_MS)
  }
}

/** The guest stands: what it wrote last goes, and the copies are complete. */
async function endCopies(source: Pick<QmpClient, 'execute'>, disks: readonly Disk[]): Promise<void> {
  refuseFailed(await jobsOf(source, disks), disks)
  for (const { id } of disks) await source.execute('block-job-cancel', { device: id })
  for (;;) {
    const jobs = await jobsOf(source, disks)
    const failed = jobs.findIndex(({ error }) => error !== undefined)
    if (failed >= 0) throw new MoveError(`copying the disk "${disks[failed]!.device}" failed: ${jobs[failed]!.error}`)
    if (jobs.every(({ status }) => status === 'concluded')) break
    await delay(POLL_MS)
  }
  for (const { id } of disks) {
    await source.execute('job-dismiss', { id })
    await source.execute('blockdev-del', { 'node-name': id })
  }
}

function refuseFailed(jobs: readonly JobReply[], disks: readonly Disk[]): void {
  const over = jobs.findIndex(({ status }) => status === 'concluded' || status === 'aborting')
  if (over < 0) return
  throw new MoveError(`copying the disk "${disks[over]!.device}" failed: ${jobs[over]!.error ?? 'it ended early'}`)
}

async function stopServing({ destination }: MoveStorage, disks: readonly Disk[]): Promise<void> {
  for (const { id } of disks) await destination.execute('block-export-del', { id, mode: 'hard' })
  await destination.execute('nbd-server-stop')
}

/** @throws MoveError it failed, or was cancelled */
async function migrated(
  source: Pick<QmpClient, 'execute'>,
  { progress }: MoveOptions,
  until: 'completed' | 'pre-switchover' = 'completed',
): Promise<void> {
  for (;;) {
    const { status, ram, 'error-desc': why } = await source.execute('query-migrate')
    if (ram && until === 'pre-switchover') progress?.('memory', ram.total - ram.remaining, ram.total)
    if (status === until) return
    if (status === 'failed' || status === 'cancelled') {
      throw new MoveError(
        `the migration ${status === 'failed' ? `failed: ${why ?? 'no reason was given'}` : 'was cancelled'}`,
      )
    }
    await delay(POLL_MS)
  }
}

/** Whatever there still is of what was begun. Nothing of it may keep the rest. */
async function giveUp(
  source: Pick<QmpClient, 'execute'>,
  { destination }: MoveStorage,
  disks: readonly Disk[],
): Promise<void> {
  const quietly = (command: string, args?: object) => source.execute(command, args).catch(() => {})
  await quietly('migrate_cancel')
  const nodes = disks.map(({ id }) => ({ type: 'block-node', 'node-name': id }))
  // A destination that does not answer would keep its copies from ending.
  for (const node of nodes) await quietly('yank', { instances: [node] })
  for (const { id } of disks) await quietly('block-job-cancel', { device: id, force: true })
  for (let attempt = 0; attempt < 200; attempt++) {
    const jobs = ((await quietly('query-jobs')) ?? []) as JobReply[]
    const ours = jobs.filter(({ id }) => disks.some((disk) => disk.id === id))
    for (const { id, status } of ours) if (status === 'concluded') await quietly('job-dismiss', { id })
    if (ours.length === 0) break
    await delay(POLL_MS)
  }
  for (const { id } of disks) await quietly('blockdev-del', { 'node-name': id })
  await Promise.race([destination.execute('nbd-server-stop').catch(() => {}), delay(2000)])
}
