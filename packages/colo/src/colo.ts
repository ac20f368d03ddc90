import type { Logger, RunState } from '@ferryvm/core'
import type { Colo, ColoMode, ColoPrimaryLink, ColoReason, ColoSecondaryLink, ColoStatus } from '@ferryvm/migration'
import { ColoCheckpointError, ColoFencedError, ColoStateError } from './errors.ts'
import type { ColoGuard } from './guard/guard.ts'
import { expect, receiveDeviceState, send, sendDeviceState } from './messages.ts'
import { RamCache } from './ram-cache.ts'

/** Between two looks at `x-checkpoint-delay`, which may be changed meanwhile, ms. */
const DELAY_STEP_MS = 50

/** One checkpoint, as the primary saw it. */
export interface CheckpointFacts {
  /** Counts from 1. */
  readonly number: number
  /** How long the guest stood still. */
  readonly pausedMs: number
  /** Memory and device state. */
  readonly bytes: number
}

export interface ColoOptions {
  /**
   * Keep what the world would see (disk writes, characters) until the checkpoint that it belongs to is safe at the secondary, so
   * that nothing the world has seen can be lost. Off: as stock QEMU without its packet comparison. Default true.
   */
  readonly holdOutput?: boolean
  /** Whether the secondary's guest runs between checkpoints, as stock QEMU's does, or only when it takes over. Default false. */
  readonly secondaryRuns?: boolean
  readonly guard?: ColoGuard
  onCheckpoint?(facts: CheckpointFacts): void
}

/**
 * COLO for one machine, in the role that its migration gives it. Spec: protocol.md section 10.
 */
export function createColo(options: ColoOptions = {}): Colo {
  return new ColoSession(options)
}

type FailoverStatus = 'none' | 'require' | 'active' | 'completed'

/** What ends the loop of checkpoints on purpose. */
class Ended extends Error {}

class ColoSession implements Colo {
  readonly #options: ColoOptions
  readonly #exitListeners = new Set<(facts: { mode: ColoMode; reason: ColoReason }) => void>()
  #mode: ColoMode = 'none'
  #lastMode: ColoMode = 'none'
  #reason: ColoReason = 'none'
  #failover: FailoverStatus = 'none'
  #requested = Promise.withResolvers<void>()
  #close: ((reason: Error) => Promise<void>) | undefined
  #stopped = false
  #checkpoints = 0
  /** What a checkpoint stopped the machine in. */
  #interrupted: RunState = 'running'

  constructor(options: ColoOptions) {
    this.#options = options
  }

  get status(): ColoStatus {
    return { mode: this.#mode, lastMode: this.#lastMode, reason: this.#reason }
  }

  onExit(listener: (facts: { mode: ColoMode; reason: ColoReason }) => void): Disposable {
    this.#exitListeners.add(listener)
    return { [Symbol.dispose]: () => void this.#exitListeners.delete(listener) }
  }

  lostHeartbeat(): void {
    if (this.#mode === 'none') throw new ColoStateError('x-colo-lost-heartbeat: this machine is not in COLO')
    if (this.#failover !== 'none') throw new ColoStateError('x-colo-lost-heartbeat: a failover is under way already')
    this.#failover = 'require'
    this.#reason = 'processing'
    this.#requested.resolve()
    void this.#close?.(new Ended('a failover was asked for'))
  }

  stop(): void {
    if (this.#mode === 'none') return
    this.#stopped = true
    this.#requested.resolve()
    void this.#close?.(new Ended('the process ends'))
  }

  async primary(link: ColoPrimaryLink): Promise<() => Promise<void>> {
    await expect(link.reader, 'checkpoint-ready')
    return async () => {
      this.#begin('primary', link)
      const { machine } = link
      if (this.#options.holdOutput ?? true) machine.output.close()
      machine.start()
      try {
        for (;;) {
          await this.#delay(link)
          await this.#checkpoint(link)
        }
      } catch (error) {
        await this.#goOnAlone(link, error)
      }
    }
  }

  async secondary(link: ColoSecondaryLink): Promise<void> {
    const { machine, reader, writer } = link
    const runs = this.#options.secondaryRuns ?? false
    this.#begin('secondary', link)
    const cache = new RamCache(machine)
    machine.output.close()
    machine.memory.dirtyLog.enabled = true
    machine.setRunState('colo')
    try {
      if (runs) machine.start()
      await send(writer, 'checkpoint-ready')
      for (;;) {
        await expect(reader, 'checkpoint-request')
        await machine.stop('colo')
        await send(writer, 'checkpoint-reply')
        await expect(reader, 'vmstate-send')
        await link.receiveMemory(cache)
        const devices = await receiveDeviceState(reader)
        await send(writer, 'vmstate-received')
        // The primary may die from here on: what it let out needs this checkpoint, so it is taken in any case.
        await this.#commit(link, cache, devices)
        if (runs) machine.start()
        await send(writer, 'vmstate-loaded')
      }
    } catch (error) {
      await this.#goOnAlone(link, error)
    } finally {
      machine.memory.dirtyLog.enabled = false
    }
  }

  #begin(mode: 'primary' | 'secondary', link: ColoPrimaryLink | ColoSecondaryLink): void {
    this.#mode = mode
    this.#failover = 'none'
    this.#reason = 'none'
    this.#interrupted = 'running'
    this.#requested = Promise.withResolvers()
    this.#close = (reason) => link.close(reason)
    this.#options.guard?.begin(mode, link.log, (why) => {
      link.log.warn(`COLO: ${why}`)
      void link.close(new ColoFencedError(why))
    })
  }

  async #delay(link: ColoPrimaryLink): Promise<void> {
    const began = performance.now()
    for (;;) {
      const left = link.delayMs - (performance.now() - began)
      if (left <= 0 || this.#failover !== 'none' || this.#stopped) return
      const woken = Promise.withResolvers<void>()
      const timer = setTimeout(woken.resolve, Math.min(left, DELAY_STEP_MS))
      await Promise.race([woken.promise, this.#requested.promise])
      clearTimeout(timer)
    }
  }

  async #checkpoint(link: ColoPrimaryLink): Promise<void> {
    const { machine, reader, writer } = link
    await send(writer, 'checkpoint-request')
    await expect(reader, 'checkpoint-reply')
    const began = performance.now()
    const from = writer.position
    this.#interrupted = machine.runState
    await machine.stop('colo')
    await send(writer, 'vmstate-send')
    await link.sendMemory()
    const devices = await link.deviceState()
    await sendDeviceState(writer, devices)
    await expect(reader, 'vmstate-received')
    await expect(reader, 'vmstate-loaded')
    if (this.#options.guard?.overtaken) throw new ColoFencedError('the secondary has taken over')
    if (this.#interrupted === 'running') machine.start()
    else machine.setRunState(this.#interrupted)
    machine.output.release()
    this.#options.onCheckpoint?.({
      number: ++this.#checkpoints,
      pausedMs: performance.now() - began,
      bytes: writer.position - from,
    })
  }

  async #commit(link: ColoSecondaryLink, cache: RamCache, devices: Uint8Array): Promise<void> {
    const { machine } = link
    await cache.takeOwn()
    await cache.flush()
    machine.output.discard()
    try {
      await link.loadDeviceState(devices)
    } catch (cause) {
      throw new ColoCheckpointError(`the checkpoint could not be loaded: ${(cause as Error).message}`, { cause })
    }
  }

  /** The loop of checkpoints is over. Resolves when this machine runs alone; throws when it must not, or cannot. */
  async #goOnAlone(link: ColoPrimaryLink | ColoSecondaryLink, error: unknown): Promise<void> {
    const { machine, log } = link
    const mode = this.#mode
    const reason = error instanceof Error ? error : new Error(String(error))
    await link.close(reason).catch(() => {})
    try {
      if (!this.#stopped && reason instanceof ColoCheckpointError) throw reason
      if (!this.#stopped) await this.#mayGoOn(log, reason)
      if (this.#stopped) throw new ColoStateError('COLO ended with the process')
    } catch (cause) {
      await machine.stop('postmigrate')
      machine.output.discard()
      await this.#end(mode, 'error')
      throw cause
    }
    this.#failover = 'active'
    if (machine.runState === 'colo') {
      if (this.#interrupted === 'running') machine.start()
      else machine.setRunState(this.#interrupted)
    }
    machine.output.open()
    this.#failover = 'completed'
    await this.#end(mode, 'request')
    log.warn(`COLO: this machine goes on alone (${reason.message})`)
  }

  async #mayGoOn(log: Logger, reason: Error): Promise<void> {
    const { guard } = this.#options
    const peer = this.#mode === 'primary' ? 'secondary' : 'primary'
    const asked = this.#failover !== 'none'
    if (!asked) log.warn(`COLO: lost the ${peer}: ${reason.message}`)
    this.#reason = 'processing'
    if (guard) {
      if (await guard.claim(asked)) return
      throw new ColoFencedError(`the ${peer} goes on with the guest, which is stopped here`, { cause: reason })
    }
    if (asked) return
    this.#reason = 'error'
    this.#exit(this.#mode, 'error')
    await this.#requested.promise
  }

  async #end(mode: ColoMode, reason: ColoReason): Promise<void> {
    const reported = this.#reason === 'error'
    this.#lastMode = mode
    this.#mode = 'none'
    this.#reason = reason
    this.#close = undefined
    await this.#options.guard?.end()
    if (!reported && !this.#stopped) this.#exit(mode, reason)
  }

  #exit(mode: ColoMode, reason: ColoReason): void {
    for (const listener of [...this.#exitListeners]) listener({ mode, reason })
  }
}
