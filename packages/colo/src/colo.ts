import type { Logger, Machine, QEMUFileReader, RunState } from '@ferryvm/core'
import type { Colo, ColoMode, ColoPrimaryLink, ColoReason, ColoSecondaryLink, ColoStatus } from '@ferryvm/migration'
import { trace } from './colo-trace.ts'
import { ColoCheckpointError, ColoFencedError, ColoProtocolError, ColoStateError } from './errors.ts'
import type { ColoGuard } from './guard/guard.ts'
import { expect, receiveDeviceState, send, sendDeviceState } from './messages.ts'
import { RamCache } from './ram-cache.ts'

/** Between two looks at `x-checkpoint-delay`, which may be changed meanwhile, ms. */
const DELAY_STEP_MS = 50
const ANSWER_TIMEOUT_MS = 10_000
/** Looks at what was sent and received, within that time: a process that stood still itself counts one and not all of them. */
const LOOKS = 5

const INCOMPLETE = "no checkpoint of this pair is complete yet, so the guest is still the primary's"

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
  /** Asked before the guest is sent, or taken, so that each pair can have a fence of its own; what it throws fails that migration. */
  readonly guard?: () => Promise<ColoGuard | undefined>
  /**
   * A checkpoint that neither sends nor receives a byte for so long ends the pair: the guest stands meanwhile, and a link can break
   * without a word while both sides live. Default 10000 ms.
   */
  readonly answerTimeoutMs?: number
  onCheckpoint?(facts: CheckpointFacts): void
}

/**
 * COLO for one machine, in the role that its migration gives it. Spec: protocol.md section 10.
 */
export function createColo(options: ColoOptions = {}): Colo {
  return new ColoSession(options)
}

type FailoverStatus = 'none' | 'require' | 'active' | 'completed'

/** The primary listens while it has other things to do; one read at a time, so that one has to be over before the next. */
interface Ear {
  /** Settles with `spoke`. */
  readonly speaks: Promise<void>
  /** There is something to read, or never will be. */
  spoke: boolean
}

function listenTo(reader: QEMUFileReader): Ear {
  const ear: Ear = {
    speaks: Promise.resolve(reader.fill(1)).finally(() => {
      ear.spoke = true
    }),
    spoke: false,
  }
  ear.speaks.catch(() => {})
  return ear
}

/** For a checkpoint. */
async function pause(machine: Machine): Promise<void> {
  await machine.stop('colo')
  trace.colo_vm_state_change({ old: 'run', new: 'stop' })
}

function resume(machine: Machine): void {
  machine.start()
  trace.colo_vm_state_change({ old: 'stop', new: 'run' })
}

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
  #guard: ColoGuard | undefined
  /** The secondary has at least one checkpoint of this pair. Before, the guest is the primary's alone. */
  #complete = false
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
    if (this.#mode === 'secondary' && !this.#complete) throw new ColoStateError(`x-colo-lost-heartbeat: ${INCOMPLETE}`)
    this.#setFailover('require')
    this.#reason = 'processing'
    this.#requested.resolve()
    void this.#close?.(new Ended('a failover was asked for'))
  }

  async stop(): Promise<void> {
    if (this.#mode === 'none') return
    this.#stopped = true
    // The guest ends here on purpose, so a secondary must not bring it back.
    if (this.#mode === 'primary') await this.#guard?.claim(true).catch(() => false)
    this.#requested.resolve()
    void this.#close?.(new Ended('the process ends'))
  }

  async prepare(): Promise<void> {
    this.#guard = await this.#options.guard?.()
  }

  async primary(link: ColoPrimaryLink): Promise<() => Promise<void>> {
    const { machine, reader, writer } = link
    await this.#inTime(link, () => expect(reader, 'checkpoint-ready'))
    await this.#begin('primary', link)
    try {
      await this.#inTime(link, async () => {
        await send(writer, 'checkpoint-request')
        await expect(reader, 'checkpoint-reply')
      })
    } catch (error) {
      await this.#end('none', 'none')
      throw error
    }
    // What is sent from here on may give the secondary a whole checkpoint, and with it the right to take over.
    return async () => {
      try {
        if (this.#options.holdOutput ?? true) machine.output.close()
        await this.#inTime(link, () => this.#transfer(link))
        link.paired()
        for (;;) {
          const ear = await this.#delay(link)
          await this.#inTime(link, () => this.#checkpoint(link, ear))
        }
      } catch (error) {
        await this.#goOnAlone(link, error)
      }
    }
  }

  async secondary(link: ColoSecondaryLink): Promise<void> {
    const { machine, reader, writer } = link
    const runs = this.#options.secondaryRuns ?? false
    await this.#begin('secondary', link)
    const cache = new RamCache(machine)
    machine.output.close()
    machine.memory.dirtyLog.enabled = true
    machine.setRunState('colo')
    try {
      if (runs) resume(machine)
      await send(writer, 'checkpoint-ready')
      for (;;) {
        await expect(reader, 'checkpoint-request')
        await pause(machine)
        await send(writer, 'checkpoint-reply')
        await expect(reader, 'vmstate-send')
        await link.receiveMemory(cache)
        const devices = await receiveDeviceState(reader)
        await send(writer, 'vmstate-received')
        // The primary may die from here on: what it let out needs this checkpoint, so it is taken in any case.
        await this.#commit(link, cache, devices)
        if (runs) resume(machine)
        await send(writer, 'vmstate-loaded')
      }
    } catch (error) {
      await this.#goOnAlone(link, error)
    } finally {
      machine.memory.dirtyLog.enabled = false
    }
  }

  async #begin(mode: 'primary' | 'secondary', link: ColoPrimaryLink | ColoSecondaryLink): Promise<void> {
    this.#mode = mode
    this.#failover = 'none'
    this.#reason = 'none'
    this.#complete = false
    this.#interrupted = 'running'
    this.#requested = Promise.withResolvers()
    this.#close = (reason) => link.close(reason)
    try {
      await this.#guard?.begin(mode, link.log, (why) => void link.close(new ColoFencedError(why)))
    } catch (error) {
      await this.#end('none', 'none')
      throw error
    }
  }

  /** Until the next checkpoint is due. @throws the channel broke meanwhile, or the secondary spoke, which has nothing to say */
  async #delay(link: ColoPrimaryLink): Promise<Ear> {
    const { reader } = link
    const began = performance.now()
    const ear = listenTo(reader)
    const spoke = ear.speaks.catch(() => {})
    while (!ear.spoke) {
      const left = link.delayMs - (performance.now() - began)
      if (left <= 0 || this.#failover !== 'none' || this.#stopped) return ear
      const slice = Promise.withResolvers<void>()
      const timer = setTimeout(slice.resolve, Math.min(left, DELAY_STEP_MS))
      await Promise.race([spoke, slice.promise, this.#requested.promise])
      clearTimeout(timer)
    }
    await ear.speaks
    await expect(reader, 'checkpoint-reply')
    throw new ColoProtocolError('the secondary replied before a checkpoint was asked for')
  }

  async #checkpoint(link: ColoPrimaryLink, { speaks }: Ear): Promise<void> {
    const { machine, reader, writer } = link
    await send(writer, 'checkpoint-request')
    await speaks
    await expect(reader, 'checkpoint-reply')
    this.#interrupted = machine.runState
    await this.#transfer(link)
  }

  /** @throws the channel, closed by us: the secondary is silent */
  async #inTime(link: ColoPrimaryLink, work: () => Promise<void>): Promise<void> {
    const { reader, writer } = link
    const limitMs = this.#options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS
    let [seen, looks] = [-1, 0]
    const timer = setInterval(() => {
      const bytes = reader.position + writer.position
      looks = bytes === seen ? looks + 1 : 0
      seen = bytes
      if (looks === LOOKS) void link.close(new ColoProtocolError(`the secondary is silent for ${limitMs} ms`))
    }, limitMs / LOOKS)
    try {
      await work()
    } finally {
      clearInterval(timer)
    }
  }

  /** Stops the machine, sends what has changed, and lets it go on with what the secondary has. */
  async #transfer(link: ColoPrimaryLink): Promise<void> {
    const { machine, reader, writer } = link
    const began = performance.now()
    const from = writer.position
    await pause(machine)
    await send(writer, 'vmstate-send')
    const ear = listenTo(reader)
    await link.sendMemory()
    const devices = await link.deviceState()
    await sendDeviceState(writer, devices, async () => {
      if (!ear.spoke) return
      await ear.speaks
      throw new ColoProtocolError('the secondary acknowledged a checkpoint before it had all of it')
    })
    await ear.speaks
    await expect(reader, 'vmstate-received')
    await expect(reader, 'vmstate-loaded')
    if (this.#guard?.overtaken) throw new ColoFencedError('the secondary has taken over')
    if (this.#interrupted === 'running') resume(machine)
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
    this.#complete = true
  }

  /** The loop of checkpoints is over. Resolves when this machine runs alone; throws when it must not, or cannot. */
  async #goOnAlone(link: ColoPrimaryLink | ColoSecondaryLink, error: unknown): Promise<void> {
    const { machine, log } = link
    const mode = this.#mode
    const reason = error instanceof Error ? error : new Error(String(error))
    await link.close(reason).catch(() => {})
    try {
      if (!this.#stopped && reason instanceof ColoCheckpointError) throw reason
      if (!this.#stopped && mode === 'secondary' && !this.#complete)
        throw new ColoFencedError(INCOMPLETE, { cause: reason })
      if (!this.#stopped) await this.#mayGoOn(log, reason)
      if (this.#stopped) throw new ColoStateError('COLO ended with the process')
    } catch (cause) {
      await machine.stop('postmigrate')
      machine.output.discard()
      await this.#end(mode, 'error')
      throw cause
    }
    this.#setFailover('active')
    if (machine.runState === 'colo') {
      if (this.#interrupted === 'running') resume(machine)
      else machine.setRunState(this.#interrupted)
    }
    machine.output.open()
    this.#setFailover('completed')
    await this.#end(mode, 'request')
    log.warn(`COLO: this machine goes on alone (${reason.message})`)
  }

  #setFailover(status: FailoverStatus): void {
    this.#failover = status
    trace.colo_failover_set_state({ new_state: status })
  }

  async #mayGoOn(log: Logger, reason: Error): Promise<void> {
    const peer = this.#mode === 'primary' ? 'secondary' : 'primary'
    const asked = this.#failover !== 'none'
    if (!asked) log.warn(`COLO: lost the ${peer}: ${reason.message}`)
    this.#reason = 'processing'
    if (this.#guard) {
      if (await this.#guard.claim(asked)) return
      throw new ColoFencedError(`the ${peer} goes on with the guest, which is stopped here`, { cause: reason })
    }
    if (asked) return
    this.#reason = 'error'
    this.#exit(this.#mode, 'error')
    await this.#requested.promise
  }

  /** @param mode 'none': no pair has formed */
  async #end(mode: ColoMode, reason: ColoReason): Promise<void> {
    const reported = mode === 'none' || this.#reason === 'error'
    this.#lastMode = mode
    this.#mode = 'none'
    this.#reason = reason
    this.#close = undefined
    await this.#guard?.end()
    this.#guard = undefined
    if (!reported && !this.#stopped) this.#exit(mode, reason)
  }

  #exit(mode: ColoMode, reason: ColoReason): void {
    for (const listener of [...this.#exitListeners]) listener({ mode, reason })
  }
}
