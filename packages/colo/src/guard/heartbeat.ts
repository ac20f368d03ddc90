import type { Channel, Listener, Logger, Transport } from '@ferryvm/core'
import { ColoGuardError } from '../errors.ts'
import type { Fence } from './fence.ts'
import type { ColoGuard, ColoRole } from './guard.ts'

/** "FVHB" and a format number. */
const MAGIC = Uint8Array.of(0x46, 0x56, 0x48, 0x42, 1)
const SESSION_BYTES = 16
/** Magic, session, sender's role. */
const FRAME_BYTES = MAGIC.length + SESSION_BYTES + 1
/** Connections on one path whose peer has not shown a valid heartbeat yet. */
const MAX_STRANGERS = 4

export interface HeartbeatOptions {
  /** The paths, best over different networks: the secondary listens there, the primary connects. One or more. */
  readonly paths: readonly { readonly transport: Transport<any>; readonly address: unknown }[]
  /** 32 hexadecimal digits that only the two sides know; what shows another is a stranger. */
  readonly session: string
  readonly fence: Fence
  /** Between two signs of life, ms. Default 100. */
  readonly intervalMs?: number
  /** A path is lost after this long without one, ms. Default 1000. */
  readonly timeoutMs?: number
}

/**
 * Signs of life over several paths; the peer counts as lost when all of them are. Whoever then goes on first takes the fence.
 * While a path lives, a secondary leaves it to the primary to go on: only the channel between them broke.
 */
export async function heartbeatGuard(options: HeartbeatOptions): Promise<ColoGuard & AsyncDisposable> {
  const session = /^[0-9a-f]{32}$/i.test(options.session)
    ? Uint8Array.from(options.session.match(/../g)!, (hex) => Number.parseInt(hex, 16))
    : undefined
  if (!session) throw new ColoGuardError('the session of a heartbeat is 32 hexadecimal digits')
  if (options.paths.length === 0) throw new ColoGuardError('a heartbeat needs at least one path')
  await options.fence.check()
  return new HeartbeatGuard(options, session)
}

class HeartbeatGuard implements ColoGuard, AsyncDisposable {
  readonly #options: HeartbeatOptions
  readonly #session: Uint8Array
  readonly #intervalMs: number
  readonly #timeoutMs: number
  readonly #abort = new AbortController()
  #role: ColoRole = 'primary'
  #paths: Path[] = []
  #timer: ReturnType<typeof setInterval> | undefined
  #lastTick = 0
  #allLost = Promise.withResolvers<void>()
  #lost: ((why: string) => void) | undefined

  constructor(options: HeartbeatOptions, session: Uint8Array) {
    this.#options = options
    this.#session = session
    this.#intervalMs = options.intervalMs ?? 100
    this.#timeoutMs = options.timeoutMs ?? 1000
  }

  get overtaken(): boolean {
    return this.#options.fence.lost
  }

  async begin(role: ColoRole, log: Logger, lost: (why: string) => void): Promise<void> {
    this.#role = role
    this.#lost = lost
    this.#paths = this.#options.paths.map(
      (path, index) =>
        new Path(index, path, this.#session, role, this.#timeoutMs, 3 * this.#intervalMs, log, this.#abort.signal),
    )
    if (role === 'secondary') await Promise.all(this.#paths.map((path) => path.listen()))
    this.#lastTick = performance.now()
    this.#timer = setInterval(() => this.#tick(), this.#intervalMs)
  }

  async claim(asked: boolean): Promise<boolean> {
    const { fence } = this.#options
    if (this.#role === 'secondary' && !asked) {
      // The primary, if it lives, goes on; it has the fence then, or will take it.
      await Promise.race([this.#allLost.promise, this.#untilFenceIsTaken()])
    }
    return fence.claim(this.#role)
  }

  async end(): Promise<void> {
    clearInterval(this.#timer)
    this.#lost = undefined
    this.#abort.abort(new ColoGuardError('the heartbeat was ended'))
    this.#allLost.resolve()
    await Promise.all(this.#paths.map((path) => path.close()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end()
  }

  #tick(): void {
    const now = performance.now()
    // We stood still ourselves: what the peer sent meanwhile is still to be read.
    if (now - this.#lastTick > this.#intervalMs + this.#timeoutMs / 2) for (const path of this.#paths) path.grant(now)
    this.#lastTick = now
    for (const path of this.#paths) path.beat()
    // All of them are asked: each says when it falls silent.
    const alive = this.#paths.filter((path) => path.alive(now))
    if (alive.length > 0) return
    this.#allLost.resolve()
    const lost = this.#lost
    this.#lost = undefined
    lost?.(
      `no sign of life on ${this.#paths.length === 1 ? 'the heartbeat path' : `all ${this.#paths.length} heartbeat paths`}`,
    )
  }

  async #untilFenceIsTaken(): Promise<void> {
    while (!this.#options.fence.lost && !this.#abort.signal.aborted) {
      await new Promise((resolve) => setTimeout(resolve, this.#intervalMs))
    }
  }
}

/** One path: connects again and again, or listens. */
class Path {
  readonly #index: number
  readonly #where: HeartbeatOptions['paths'][number]
  readonly #frame: Uint8Array
  readonly #role: ColoRole
  readonly #timeoutMs: number
  /** For a path to come back after it was cut. */
  readonly #graceMs: number
  readonly #log: Logger
  readonly #signal: AbortSignal
  #channel: Channel | undefined
  #listener: Listener<unknown> | undefined
  #connecting = false
  #strangers = 0
  #heardMs: number
  #said = true

  constructor(
    index: number,
    where: HeartbeatOptions['paths'][number],
    session: Uint8Array,
    role: ColoRole,
    timeoutMs: number,
    graceMs: number,
    log: Logger,
    signal: AbortSignal,
  ) {
    this.#index = index
    this.#where = where
    this.#role = role
    this.#timeoutMs = timeoutMs
    this.#graceMs = graceMs
    this.#log = log
    this.#signal = signal
    this.#frame = new Uint8Array(FRAME_BYTES)
    this.#frame.set(MAGIC)
    this.#frame.set(session, MAGIC.length)
    this.#frame[FRAME_BYTES - 1] = role === 'primary' ? 1 : 2
    this.#heardMs = performance.now()
  }

  alive(now: number): boolean {
    const alive = now - this.#heardMs < this.#timeoutMs
    if (alive !== this.#said) {
      this.#said = alive
      this.#log.warn(`heartbeat path ${this.#index + 1} ${alive ? 'is back' : 'is silent'}`)
    }
    return alive
  }

  grant(now: number): void {
    this.#heardMs = Math.max(this.#heardMs, now - this.#timeoutMs / 2)
  }

  beat(): void {
    if (this.#channel) {
      const channel = this.#channel
      const pending = channel.write([this.#frame])
      if (pending) pending.catch(() => this.#drop(channel))
    } else if (this.#role === 'primary' && !this.#connecting) void this.#connect()
  }

  async close(): Promise<void> {
    await this.#listener?.[Symbol.asyncDispose]()
    await this.#channel?.close().catch(() => {})
  }

  async #connect(): Promise<void> {
    this.#connecting = true
    try {
      const { transport, address } = this.#where
      const signal = AbortSignal.any([this.#signal, AbortSignal.timeout(this.#timeoutMs)])
      const channel = await transport.connect(address, { signal, log: this.#log })
      this.#channel = channel
      void this.#receive(channel)
    } catch {
      // Tried again with the next beat; the silence is what counts.
    } finally {
      this.#connecting = false
    }
  }

  async listen(): Promise<void> {
    const { transport, address } = this.#where
    try {
      this.#listener = await transport.listen(address, { signal: this.#signal, log: this.#log })
    } catch (cause) {
      throw new ColoGuardError(`heartbeat path ${this.#index + 1}: ${(cause as Error).message}`, { cause })
    }
    void this.#accept(this.#listener)
  }

  async #accept(listener: Listener<unknown>): Promise<void> {
    try {
      for await (const channel of listener) {
        if (this.#strangers >= MAX_STRANGERS) void channel.close().catch(() => {})
        else void this.#receive(channel)
      }
    } catch (error) {
      if (!this.#signal.aborted) this.#log.warn(`heartbeat path ${this.#index + 1}: ${(error as Error).message}`)
    }
  }

  /** A channel becomes the path's when its first heartbeat is right. */
  async #receive(channel: Channel): Promise<void> {
    const frame = new Uint8Array(FRAME_BYTES)
    let known = false
    this.#strangers++
    try {
      for (;;) {
        for (let have = 0; have < FRAME_BYTES; ) {
          const n = await channel.read(frame.subarray(have))
          if (n === 0) return
          have += n
        }
        const own = this.#frame
        for (let i = 0; i < FRAME_BYTES - 1; i++) {
          if (frame[i] !== own[i]) {
            this.#log.warn(`heartbeat path ${this.#index + 1}: a stranger was refused`)
            return
          }
        }
        if (frame[FRAME_BYTES - 1] === own[FRAME_BYTES - 1]) {
          this.#log.warn(`heartbeat path ${this.#index + 1}: a second ${this.#role} was refused`)
          return
        }
        if (!known) {
          known = true
          this.#strangers--
          if (this.#channel !== channel) {
            void this.#channel?.close().catch(() => {})
            this.#channel = channel
          }
        }
        this.#heardMs = performance.now()
      }
    } catch {
      // As the end of the channel: the path is silent from now on.
    } finally {
      if (!known) this.#strangers--
      this.#drop(channel)
    }
  }

  #drop(channel: Channel): void {
    if (this.#channel === channel) {
      this.#channel = undefined
      // A path that was cut counts as silent unless it is soon back: the process behind it is gone, or the network is.
      this.#heardMs = Math.min(this.#heardMs, performance.now() - this.#timeoutMs + this.#graceMs)
    }
    void channel.close().catch(() => {})
  }
}
