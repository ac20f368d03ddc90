import { MonitorCommandError } from './errors.ts'

/** Spec: protocol.md section 12. */
export type JobStatus =
  | 'created'
  | 'running'
  | 'paused'
  | 'ready'
  | 'standby'
  | 'waiting'
  | 'pending'
  | 'aborting'
  | 'concluded'
  | 'null'

export interface JobInfo {
  readonly id: string
  readonly type: string
  readonly status: JobStatus
  readonly 'current-progress': number
  readonly 'total-progress': number
  /** Why it failed. */
  readonly error?: string
}

/** What can be done about work that goes on until somebody ends it. */
export interface JobControl {
  progress(): { readonly copied: number; readonly total: number }
  pause(): void
  resume(): void
  /** Ends it, as if it had not been. */
  cancel(): void
}

export interface JobOptions {
  /** Without: it runs to its end by itself. */
  readonly control?: JobControl
  /** Default true. */
  readonly autoFinalize?: boolean
  /** Default false. */
  readonly autoDismiss?: boolean
  /** It was turned into that, and clients were told. */
  readonly onStatus?: (status: JobStatus) => void
  /** Just before clients are told that it is concluded. */
  readonly onEnd?: (error: Error | undefined) => void
}

/** Of the work, to say how far it is. */
export interface RunningJob {
  /** From now on it can be completed. */
  ready(): void
  /** It is over but for its last step: resolves when that may be done. */
  finalized(): Promise<void>
}

type Verb = 'cancel' | 'pause' | 'resume' | 'complete' | 'finalize' | 'dismiss' | 'set-speed'

/** What a job in which state takes. */
const VERBS: Readonly<Record<Verb, readonly JobStatus[]>> = {
  cancel: ['created', 'running', 'paused', 'ready', 'standby', 'waiting', 'pending'],
  pause: ['created', 'running', 'paused', 'ready', 'standby'],
  resume: ['created', 'running', 'paused', 'ready', 'standby'],
  complete: ['ready'],
  finalize: ['pending'],
  dismiss: ['concluded'],
  'set-speed': ['created', 'running', 'paused', 'ready', 'standby'],
}

/** Jobs that nobody dismisses stay; more than this many are refused. */
const MAX_JOBS = 256

/** Somebody cancelled it, in the words that clients know. */
export class JobCancelledError extends Error {
  constructor(options?: ErrorOptions) {
    super('Operation canceled', options)
  }
}

/** One piece of long work. */
export class Job implements RunningJob {
  readonly id: string
  readonly type: string
  readonly options: JobOptions
  status: JobStatus = 'created'
  error: Error | undefined
  /** It was ready once. */
  #ready = false
  #done = false
  readonly #changed: (job: Job) => void
  readonly #finalize = Promise.withResolvers<void>()

  constructor(id: string, type: string, options: JobOptions, changed: (job: Job) => void) {
    this.id = id
    this.type = type
    this.options = options
    this.#changed = changed
    this.#finalize.promise.catch(() => {})
  }

  get progress(): { readonly copied: number; readonly total: number } {
    return this.options.control?.progress() ?? { copied: Number(this.#done), total: 1 }
  }

  get paused(): boolean {
    return this.status === 'paused' || this.status === 'standby'
  }

  /** @throws MonitorCommandError its state does not take that */
  check(verb: Verb): void {
    const { control } = this.options
    if (VERBS[verb].includes(this.status) && (control || verb === 'dismiss' || verb === 'finalize')) return
    throw new MonitorCommandError(`Job '${this.id}' in state '${this.status}' cannot accept command verb '${verb}'`)
  }

  ready(): void {
    this.#ready = true
    this.turn(this.paused ? 'standby' : 'ready')
  }

  async finalized(): Promise<void> {
    this.turn('waiting')
    this.turn('pending')
    if (this.options.autoFinalize ?? true) return
    await this.#finalize.promise
  }

  pause(): void {
    this.check('pause')
    if (this.paused) throw new MonitorCommandError(`Job '${this.id}' is paused already`)
    this.options.control!.pause()
    this.turn(this.#ready ? 'standby' : 'paused')
  }

  resume(): void {
    this.check('resume')
    if (!this.paused) throw new MonitorCommandError("Can't resume a job that was not paused")
    this.options.control!.resume()
    this.turn(this.#ready ? 'ready' : 'running')
  }

  cancel(): void {
    this.check('cancel')
    this.options.control!.cancel()
    this.#finalize.reject(new JobCancelledError())
  }

  finalize(): void {
    this.check('finalize')
    this.#finalize.resolve()
  }

  async work(run: (job: RunningJob) => Promise<unknown>): Promise<void> {
    this.turn('created')
    this.turn('running')
    try {
      await run(this)
      if (this.status !== 'pending') await this.finalized()
    } catch (error) {
      this.error = error instanceof Error ? error : new Error(String(error))
      this.turn('aborting')
    }
    this.#done = true
    this.options.onEnd?.(this.error)
    this.turn('concluded')
    if (this.options.autoDismiss) this.turn('null')
  }

  turn(status: JobStatus): void {
    this.status = status
    this.#changed(this)
    this.options.onStatus?.(status)
  }
}

/** Long work that a command begins: it is over when its job is concluded, and forgotten when that was dismissed. */
export class Jobs {
  readonly #jobs = new Map<string, Job>()
  readonly #changed: (facts: { status: JobStatus; id: string }) => void

  constructor(changed: (facts: { status: JobStatus; id: string }) => void) {
    this.#changed = changed
  }

  /** Latest first. */
  get all(): readonly Job[] {
    return [...this.#jobs.values()].reverse()
  }

  list(): JobInfo[] {
    return this.all.map(({ id, type, status, progress, error }) => ({
      id,
      type,
      status,
      'current-progress': progress.copied,
      'total-progress': progress.total,
      ...(error && { error: error.message }),
    }))
  }

  /** @throws MonitorCommandError the id is none, or taken */
  start(id: string, type: string, run: (job: RunningJob) => Promise<unknown>, options: JobOptions = {}): void {
    this.checkId(id)
    const job = new Job(id, type, options, ({ status }) => {
      if (status === 'null') this.#jobs.delete(id)
      this.#changed({ status, id })
    })
    this.#jobs.set(id, job)
    void job.work(run)
  }

  /** @throws MonitorCommandError a job cannot have that id */
  checkId(id: string): void {
    if (!/^[a-z][a-z0-9._-]*$/i.test(id)) throw new MonitorCommandError(`Invalid job ID '${id}'`)
    if (this.#jobs.has(id)) throw new MonitorCommandError(`Job ID '${id}' already in use`)
    if (this.#jobs.size >= MAX_JOBS)
      throw new MonitorCommandError(`there are ${MAX_JOBS} jobs; dismiss those that are concluded`)
  }

  /** @throws MonitorCommandError there is none of that id */
  find(id: string): Job {
    const job = this.#jobs.get(id)
    if (!job) throw new MonitorCommandError('Job not found')
    return job
  }

  /** @throws MonitorCommandError there is none of that id, or it is not over */
  dismiss(id: string): void {
    const job = this.find(id)
    job.check('dismiss')
    job.turn('null')
  }
}
