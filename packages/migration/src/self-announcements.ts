import type { Logger, Machine } from '@ferryvm/core'
import type { Parameters } from './parameters.ts'

/** Spec: protocol.md section 4, `announce-*`. */
export interface AnnounceTimes {
  /** From the first round to the second. */
  readonly initialMs: number
  /** No pause is longer. */
  readonly maxMs: number
  readonly rounds: number
  /** By so much each pause is longer than the one before. */
  readonly stepMs: number
}

export interface AnnounceSelection {
  /** Ids of network cards. Default: all. */
  readonly interfaces?: readonly string[]
  /** Rounds of the same name end where new ones begin. Default: those of a migration. */
  readonly id?: string
}

export const announceTimes = ({ values }: Parameters): AnnounceTimes => ({
  initialMs: values['announce-initial'],
  maxMs: values['announce-max'],
  rounds: values['announce-rounds'],
  stepMs: values['announce-step'],
})

type Here = Pick<Machine, 'devices' | 'runState' | 'on'>

/**
 * Rounds in which network cards say where their guest is now: at once, and again with growing pauses, because some network has not seen
 * the first, or its switch was not ready. While the guest stands nothing is said: somebody else may have it, or be about to; a round
 * whose time has come waits until the guest runs.
 */
export class SelfAnnouncements implements Disposable {
  readonly #machine: Here
  readonly #log: Logger
  /** By id, what ends the wait for its next round. */
  readonly #waits = new Map<string, () => void>()

  constructor(machine: Here, log: Logger) {
    this.#machine = machine
    this.#log = log
  }

  start(times: AnnounceTimes, { interfaces, id = '' }: AnnounceSelection = {}): void {
    this.#waits.get(id)?.()
    this.#waits.delete(id)
    const announce = () => {
      for (const { id: name, device } of this.#machine.devices) {
        if (interfaces && !interfaces.includes(name)) continue
        try {
          device.announce?.()
        } catch (error) {
          this.#log.warn(`${name} does not announce itself: ${error}`)
        }
      }
    }
    const round = (n: number) => {
      this.#waits.delete(id)
      if (n >= times.rounds) return
      if (this.#machine.runState !== 'running') {
        const resumed = this.#machine.on('resume', () => {
          resumed[Symbol.dispose]()
          round(n)
        })
        this.#waits.set(id, () => resumed[Symbol.dispose]())
        return
      }
      announce()
      const timer = setTimeout(() => round(n + 1), Math.min(times.initialMs + times.stepMs * n, times.maxMs))
      ;(timer as { unref?(): void }).unref?.()
      this.#waits.set(id, () => clearTimeout(timer))
    }
    round(0)
  }

  [Symbol.dispose](): void {
    for (const end of this.#waits.values()) end()
    this.#waits.clear()
  }
}
