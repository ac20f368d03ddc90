import { Mirror, MirrorCancelledError, MirrorIoError } from '@ferryvm/block'
import { MonitorCommandError } from '../errors.ts'
import { type Job, JobCancelledError, type Jobs } from '../jobs.ts'
import type { QmpEventData, QmpEventName } from '../qmp/events.ts'
import type { BlockNode, BlockNodes } from './block-nodes.ts'

export interface MirrorJobOptions {
  /** Default: the device's. */
  readonly id?: string
  readonly sync: 'full' | 'top' | 'none'
  /** Bytes per second; 0: as fast as it goes. */
  readonly speed?: number
  readonly granularity?: number
  readonly autoFinalize?: boolean
  readonly autoDismiss?: boolean
}

/** `query-block-jobs`. Member names are the protocol's. */
export interface BlockJobInfo {
  readonly type: 'mirror'
  readonly device: string
  readonly len: number
  readonly offset: number
  readonly busy: boolean
  readonly paused: boolean
  readonly speed: number
  readonly 'io-status': 'ok'
  readonly ready: boolean
  readonly status: string
  readonly 'auto-finalize': boolean
  readonly 'auto-dismiss': boolean
  readonly 'actively-synced': boolean
  readonly error?: string
}

type Emit = <E extends QmpEventName>(name: E, data: QmpEventData<E>) => void

interface MirrorJob {
  readonly mirror: Mirror
  readonly job: () => Job
  readonly source: BlockNode
  readonly target: BlockNode
  /** The drive goes over to the target at the end. */
  pivot: boolean
}

const MIN_GRANULARITY = 512
const MAX_GRANULARITY = 64 << 20

/** Copies of the machine's disks that go on while it runs. */
export class MirrorJobs {
  readonly #nodes: BlockNodes
  readonly #jobs: Jobs
  readonly #emit: Emit
  readonly #mirrors = new Map<string, MirrorJob>()

  constructor(nodes: BlockNodes, jobs: Jobs, emit: Emit) {
    this.#nodes = nodes
    this.#jobs = jobs
    this.#emit = emit
  }

  /** @param release lets go of the target at the end, unless the drive has gone over to it @throws MonitorCommandError nothing was begun */
  start(
    source: BlockNode,
    target: BlockNode,
    options: MirrorJobOptions,
    release: () => Promise<void> = async () => {},
  ): void {
    const { drive } = source
    if (!drive) throw new MonitorCommandError('Need a root block node')
    const { id = drive.device, sync, speed = 0, granularity, autoFinalize = true, autoDismiss = true } = options
    if ([...this.#mirrors.values()].some((other) => other.source === source || other.target === target))
      throw new MonitorCommandError('Need a root block node')
    if (target.backend.readOnly) throw new MonitorCommandError(`node '${target.name}' is read-only`)
    if (target.users > 0 || target.drive) throw new MonitorCommandError(`Node ${target.name} is in use`)
    if (granularity !== undefined && !isGranularity(granularity))
      throw new MonitorCommandError("Parameter 'granularity' expects a power of 2 from 512B to 64MB")
    if (target.backend.capacityBytes < source.backend.capacityBytes)
      throw new MonitorCommandError(
        `the target has ${target.backend.capacityBytes} bytes, the disk ${source.backend.capacityBytes}`,
      )
    this.#jobs.checkId(id)
    const mirror = new Mirror({
      source: source.backend,
      target: target.backend,
      sync,
      bytesPerSecond: speed,
      granularityBytes: granularity,
      onReady: () => {
        entry.job().ready()
        this.#emit('BLOCK_JOB_READY', this.#facts(id, entry))
      },
    })
    const entry: MirrorJob = { mirror, job: () => this.#jobs.find(id), source, target, pivot: false }
    this.#mirrors.set(id, entry)
    source.users++
    target.users++
    this.#jobs.start(
      id,
      'mirror',
      async (job) => {
        try {
          await mirror.run(async (last) => {
            const finish = async (read?: (offset: number, into: Uint8Array) => Promise<void>) => {
              await job.finalized()
              await last(read)
            }
            if (!entry.pivot) return finish()
            await drive.drive.replace(async () => {
              await finish((offset, into) => drive.drive.readNow(offset, into))
              return this.#nodes.taken(target, source)
            })
          })
        } catch (error) {
          entry.pivot = false
          if (error instanceof MirrorIoError) {
            this.#nodes.log.warn(error.message, { error })
            this.#emit('BLOCK_JOB_ERROR', { device: id, operation: error.operation, action: 'report' })
          }
          throw error instanceof MirrorCancelledError ? new JobCancelledError({ cause: error }) : error
        } finally {
          source.users--
          target.users--
          if (!entry.pivot) await release().catch(() => {})
        }
      },
      {
        control: {
          progress: () => mirror.progress,
          pause: () => mirror.pause(),
          resume: () => mirror.resume(),
          cancel: () => mirror.cancel(),
        },
        autoFinalize,
        autoDismiss,
        onStatus: (status) => {
          if (status === 'pending' && !autoFinalize) this.#emit('BLOCK_JOB_PENDING', { type: 'mirror', id })
          if (status === 'null') this.#mirrors.delete(id)
        },
        onEnd: (error) => {
          const facts = this.#facts(id, entry)
          if (error instanceof JobCancelledError) this.#emit('BLOCK_JOB_CANCELLED', facts)
          else this.#emit('BLOCK_JOB_COMPLETED', { ...facts, ...(error && { error: error.message }) })
        },
      },
    )
  }

  list(): BlockJobInfo[] {
    return [...this.#mirrors].reverse().map(([id, entry]) => {
      const { status, paused, error, options } = entry.job()
      return {
        ...this.#facts(id, entry),
        type: 'mirror',
        busy: false,
        paused,
        'io-status': 'ok',
        ready: status === 'ready' || status === 'standby',
        status,
        'auto-finalize': options.autoFinalize ?? true,
        'auto-dismiss': options.autoDismiss ?? false,
        'actively-synced': false,
        ...(error && { error: error.message }),
      }
    })
  }

  /** A ready job ends where it is, unless forced: the target is then a copy of that moment. @throws MonitorCommandError */
  cancel(id: string, force: boolean): void {
    const { mirror, job } = this.#find(id)
    job().check('cancel')
    if (!force && mirror.ready) {
      if (mirror.paused)
        throw new MonitorCommandError(`The block job for device '${id}' is paused and cannot be cancelled`)
      mirror.end()
    } else job().cancel()
  }

  /** The drive goes over to the target. @throws MonitorCommandError it is not ready */
  complete(id: string): void {
    const entry = this.#find(id)
    entry.job().check('complete')
    entry.pivot = true
    entry.mirror.end()
  }

  setSpeed(id: string, speed: number): void {
    const { mirror, job } = this.#find(id)
    job().check('set-speed')
    mirror.bytesPerSecond = speed
  }

  /** By job. @throws MonitorCommandError */
  jobOf(id: string): Job {
    return this.#find(id).job()
  }

  /** Cancels all, and does not wait for targets that do not answer. */
  async close(): Promise<void> {
    for (const { mirror, target } of this.#mirrors.values()) {
      mirror.cancel()
      target.nbd?.yank(new MonitorCommandError('this machine ends'))
    }
  }

  #find(id: string): MirrorJob {
    const found = this.#mirrors.get(id)
    if (!found) throw new MonitorCommandError(`Block job '${id}' not found`, 'DeviceNotActive')
    return found
  }

  #facts(id: string, { mirror }: MirrorJob) {
    const { copied, total } = mirror.progress
    return { type: 'mirror', device: id, len: total, offset: copied, speed: mirror.bytesPerSecond }
  }
}

const isGranularity = (bytes: number): boolean =>
  bytes >= MIN_GRANULARITY && bytes <= MAX_GRANULARITY && Number.isInteger(Math.log2(bytes))
