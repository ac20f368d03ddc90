import { PAGE_BYTES } from '@ferryvm/core'
import { WINDOW_MS } from '../bandwidth.ts'
import type { ParameterValues } from '../parameters.ts'
import type { RamSaver } from '../ram/ram-save.ts'
import { forecast, type MigrationForecast } from './forecast.ts'
import { PageCosts } from './page-costs.ts'
import { RunningMean } from './running-mean.ts'
import type { ForecastFacts, PageTimes } from './simulate.ts'
import { WriteCurve } from './write-curve.ts'

/** Unsent pages that are looked at for being zero. */
const SAMPLES = 512

export interface ForecastSettings {
  readonly parameters: Readonly<ParameterValues>
  readonly autoConverge: boolean
  readonly postcopy: boolean
  /** Percent of its time that the guest stands. */
  readonly throttlePercent: number
}

/** Watches a precopy migration, so that it can tell at any time how it will go on. */
export class Forecaster {
  readonly #ram: RamSaver
  readonly #writes = new WriteCurve()
  readonly #costs = new PageCosts()
  #syncedMs = performance.now()
  #windowBegan = performance.now()
  #sent = { normal: 0, zero: 0 }
  #throughput = 0
  #waitedMs = 0
  /** ms per byte of windows in which max-bandwidth made us wait: on a busy host it is not reached. */
  readonly #pace = new RunningMean()
  /** ms by which windows end late: what a busy host adds to whatever waits for its turn. */
  readonly #late = new RunningMean()
  #limit = 0

  constructor(ram: RamSaver) {
    this.#ram = ram
  }

  /** The dirty log has been emptied. @param written pages that were in it */
  synced(written: number): void {
    const now = performance.now()
    this.#writes.look(now, written)
    this.#writes.restart(now)
    this.#syncedMs = now
  }

  /** A window of the bandwidth measurement has ended. */
  windowClosed(bytes: number): void {
    const now = performance.now()
    const { normalPages, zeroPages } = this.#ram.stats
    const ms = now - this.#windowBegan
    this.#costs.window(normalPages - this.#sent.normal, zeroPages - this.#sent.zero, bytes, ms - this.#waitedMs)
    if (this.#waitedMs > 0) this.#pace.add(ms / bytes)
    this.#late.add(Math.max(0, ms - WINDOW_MS))
    this.#waitedMs = 0
    this.#sent = { normal: normalPages, zero: zeroPages }
    this.#windowBegan = now
    this.#throughput = (bytes * 1000) / ms
    this.#writes.look(now, this.#ram.written)
  }

  /** The next window begins now; what came before was not sending. */
  restart(): void {
    this.#windowBegan = performance.now()
    this.#waitedMs = 0
  }

  /** Nothing was sent in this time, as max-bandwidth wants it. */
  waited(ms: number): void {
    this.#waitedMs += ms
  }

  forecast({ parameters, autoConverge, postcopy, throttlePercent }: ForecastSettings): MigrationForecast {
    const ram = this.#ram
    const firstPass = ram.stats.syncCount <= 1
    const available = parameters['avail-switchover-bandwidth']
    const facts: ForecastFacts | undefined =
      this.#costs.known && this.#writes.known
        ? {
            unsent: ram.stats.dirtyPages,
            zeroShare: firstPass ? ram.zeroShare(SAMPLES) : 0,
            total: ram.totalBytes / PAGE_BYTES,
            firstPass,
            sinceSyncMs: performance.now() - this.#syncedMs,
            full: { normalMs: this.#costs.normalMs, zeroMs: this.#costs.zeroMs },
            paced: this.#paced(parameters['max-bandwidth']),
            writes: this.#writes,
            downtimeLimitMs: parameters['downtime-limit'],
            downtimePagesPerMs: available / 1000 / PAGE_BYTES,
            throttle: throttlePercent / 100,
            converge: autoConverge
              ? {
                  initial: parameters['cpu-throttle-initial'],
                  increment: parameters['cpu-throttle-increment'],
                  max: parameters['max-cpu-throttle'],
                }
              : undefined,
          }
        : undefined
    return forecast({
      facts,
      spread: this.#pace.mean === undefined ? this.#costs.spread : this.#pace.spread,
      throughputBytesPerS: this.#throughput,
      lateMs: this.#late.mean ?? 0,
      totalBytes: ram.totalBytes,
      remainingBytes: ram.remainingBytes,
      passes: ram.stats.syncCount,
      parameters,
      autoConverge,
      postcopy,
    })
  }

  /** With what the limit allows, bytes per second; 0: none. */
  #paced(limit: number): PageTimes {
    const { normalMs, zeroMs, normalBytes, zeroBytes } = this.#costs
    if (limit !== this.#limit) this.#pace.forget()
    this.#limit = limit
    const msPerByte = limit > 0 ? (this.#pace.mean ?? 1000 / limit) : 0
    return { normalMs: Math.max(normalMs, normalBytes * msPerByte), zeroMs: Math.max(zeroMs, zeroBytes * msPerByte) }
  }
}
