import { MonitorCommandError } from './errors.ts'

/** Spec: protocol.md section 12. */
export type JobStatus = 'created' | 'running' | 'aborting' | 'waiting' | 'pending' | 'concluded' | 'null'

export interface JobInfo {
  readonly id: string
  readonly type: string
  readonly status: JobStatus
  readonly 'current-progress': number
  readonly 'total-progress': number
  /** Why it failed. */
  readonly error?: string
}

interface Job {
  readonly id: string
  readonly type: string
  status: JobStatus
  progress: 0 | 1
  error?: string
}

/** Jobs that nobody dismisses stay; more than this many are refused. */
const MAX_JOBS = 256

/** Long work that a command begins: it is over when its job is concluded, and forgotten when that was dismissed. */
export class Jobs {
  readonly #jobs = new Map<string, Job>()
  readonly #changed: (facts: { status: JobStatus; id: string }) => void

  constructor(changed: (facts: { status: JobStatus; id: string }) => void) {
    this.#changed = changed
  }

  /** Latest first. */
  list(): JobInfo[] {
    return [...this.#jobs.values()].reverse().map(({ id, type, status, progress, error }) => ({
      id,
      type,
      status,
      'current-progress': progress,
      'total-progress': 1,
      ...(error !== undefined && { error }),
    }))
  }

  /** @throws MonitorCommandError the id is none, or taken */
  start(id: string, type: string, run: () => Promise<unknown>): void {
    if (!/^[a-z][a-z0-9._-]*$/i.test(id)) throw new MonitorCommandError(`Invalid job ID '${id}'`)
    if (this.#jobs.has(id)) throw new MonitorCommandError(`Job ID '${id}' already in use`)
    if (this.#jobs.size >= MAX_JOBS)
      throw new MonitorCommandError(`there are ${MAX_JOBS} jobs; dismiss those that are concluded`)
    const job: Job = { id, type, status: 'created', progress: 0 }
    this.#jobs.set(id, job)
    this.#changed({ status: 'created', id })
    this.#turn(job, 'running')
    void run().then(
      () => {
        job.progress = 1
        for (const status of ['waiting', 'pending', 'concluded'] as const) this.#turn(job, status)
      },
      (error: unknown) => {
        job.progress = 1
        job.error = error instanceof Error ? error.message : String(error)
        this.#turn(job, 'aborting')
        this.#turn(job, 'concluded')
      },
    )
  }

  /** @throws MonitorCommandError there is none of that id, or it is not over */
  dismiss(id: string): void {
    const job = this.#find(id)
    if (job.status !== 'concluded') throw this.#refusal(job, 'dismiss')
    this.#turn(job, 'null')
    this.#jobs.delete(id)
  }

  /** None of ours can be: a snapshot is made or not. @throws MonitorCommandError */
  cancel(id: string): never {
    throw this.#refusal(this.#find(id), 'cancel')
  }

  #find(id: string): Job {
    const job = this.#jobs.get(id)
    if (!job) throw new MonitorCommandError('Job not found')
    return job
  }

  #refusal({ id, status }: Job, verb: string): MonitorCommandError {
    return new MonitorCommandError(`Job '${id}' in state '${status}' cannot accept command verb '${verb}'`)
  }

  #turn(job: Job, status: JobStatus): void {
    job.status = status
    this.#changed({ status, id: job.id })
  }
}
