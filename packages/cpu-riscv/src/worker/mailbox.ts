import { nextTurn, type PhysicalMap, pageMissingIn } from '@ferryvm/core'
import type { HartState } from '../hart/hart-state.ts'
import { COUNTER, WORD } from '../hart/hart-state.ts'
import { LAYOUT } from '../hart/layout.ts'
import { Request } from './requests.ts'
import { request } from './stale-code.ts'

/**
 * One MMIO access from a hart to the device thread and back. A hart has at most one under way: it writes the request,
 * rings the shared doorbell and waits until the state says `done`. The device thread never waits for a hart.
 */
const STATE = WORD.mailbox
const OP = WORD.mailbox + 1
const SIZE = WORD.mailbox + 2
const OK = WORD.mailbox + 3
const ADDRESS = (LAYOUT.mailbox >> 3) + 2
const VALUE = (LAYOUT.mailbox >> 3) + 3

const IDLE = 0
const REQUEST = 1
const DONE = 2
const READ = 0
const WRITE = 1
/** No access: asks for the page of guest memory with that number. */
const PAGE = 2
/** No access: a write to that page of guest memory is to come, which somebody wants to see before. */
const CLAIM = 3
/** Answers. */
const FAILED = 0
const SUCCEEDED = 1
/** The access needs a page that has not arrived, VALUE is its number: to be made again when it is there. */
const MISSING = 2

/** Turns of the polling loop before the hart's thread sleeps; about 20 us. */
const SPIN_TURNS = 2000
/** How long the device thread keeps looking for the next access before it goes back to its event loop. */
const SPIN_MS = 0.05
/** At most this long in one turn of the event loop, so that sockets and timers are served. */
const TURN_MS = 1

/** The hart's end. Runs in the hart's thread. */
export class MmioClient {
  readonly #hart: HartState
  readonly #doorbell: Int32Array
  /** Of the last successful read: zero-extended. */
  value = 0n
  /** Why the last access failed: the page of guest memory that it needs, or -1 when nothing answers there. */
  missingPage = -1

  constructor(hart: HartState, doorbell: Int32Array) {
    this.#hart = hart
    this.#doorbell = doorbell
  }

  /** @returns false: nothing answers there */
  read(address: number, bytes: number): boolean {
    const ok = this.#call(READ, address, bytes)
    this.value = this.#hart.u64[VALUE]
    return ok
  }

  /** @returns false: nothing answers there */
  write(address: number, bytes: number, value: bigint): boolean {
    this.#hart.u64[VALUE] = value
    return this.#call(WRITE, address, bytes)
  }

  /** Asks for a page of guest memory; Request.page says when it is there, or may be claimed again. */
  wantPage(page: number): void {
    this.#call(PAGE, page, 0)
  }

  /** Before the first write to a guarded page. @returns false: it has to wait; see {@link wantPage} */
  claim(page: number): boolean {
    return this.#call(CLAIM, page, 0)
  }

  #call(op: number, address: number, bytes: number): boolean {
    const { i32, f64 } = this.#hart
    i32[OP] = op
    i32[SIZE] = bytes
    f64[ADDRESS] = address
    this.#hart.count(COUNTER.mmio)
    Atomics.store(i32, STATE, REQUEST)
    Atomics.add(this.#doorbell, 0, 1)
    Atomics.notify(this.#doorbell, 0)
    let turns = SPIN_TURNS
    while (Atomics.load(i32, STATE) !== DONE) {
      if (--turns > 0) continue
      Atomics.wait(i32, STATE, REQUEST, 1000)
    }
    Atomics.store(i32, STATE, IDLE)
    this.missingPage = i32[OK] === MISSING ? Number(this.#hart.u64[VALUE]) : -1
    return i32[OK] === SUCCEEDED
  }
}

/** The device thread's end, for all harts. */
export class MmioServer {
  readonly #harts: readonly HartState[]
  readonly #doorbell: Int32Array<SharedArrayBuffer>
  readonly #map: PhysicalMap
  readonly #onError: (error: unknown) => void
  #open = true
  /** Accesses served. */
  served = 0

  /** @param onError a device threw; the access is answered as a fault */
  constructor(
    harts: readonly HartState[],
    doorbell: Int32Array<SharedArrayBuffer>,
    map: PhysicalMap,
    onError: (error: unknown) => void,
  ) {
    this.#harts = harts
    this.#doorbell = doorbell
    this.#map = map
    this.#onError = onError
    this.#listen()
  }

  close(): void {
    this.#open = false
    Atomics.add(this.#doorbell, 0, 1)
    Atomics.notify(this.#doorbell, 0)
  }

  #listen(): void {
    const turnEnd = performance.now() + TURN_MS
    let spinEnd = 0
    while (this.#open) {
      const seen = Atomics.load(this.#doorbell, 0)
      const served = this.#serveAll()
      const now = performance.now()
      if (served) spinEnd = now + SPIN_MS
      if (now > turnEnd) {
        void nextTurn().then(() => this.#listen())
        return
      }
      if (now < spinEnd || Atomics.load(this.#doorbell, 0) !== seen) continue
      const waiting = Atomics.waitAsync(this.#doorbell, 0, seen)
      if (!waiting.async) continue
      void waiting.value.then(() => this.#listen())
      return
    }
  }

  #serveAll(): boolean {
    let any = false
    for (const hart of this.#harts) {
      if (Atomics.load(hart.i32, STATE) !== REQUEST) continue
      any = true
      this.#serve(hart)
    }
    return any
  }

  #serve(hart: HartState): void {
    const { i32, f64, u64 } = hart
    const address = f64[ADDRESS]
    const bytes = i32[SIZE] as 1 | 2 | 4 | 8
    let answer: number = FAILED
    try {
      if (i32[OP] === READ) {
        const value = this.#map.mmioRead(address, bytes)
        answer = value !== undefined ? SUCCEEDED : FAILED
        u64[VALUE] = value ?? 0n
      } else if (i32[OP] === WRITE) {
        answer = this.#map.mmioWrite(address, bytes, u64[VALUE]) ? SUCCEEDED : FAILED
      } else if (i32[OP] === CLAIM) answer = this.#map.memory.guards.claim(address) ? SUCCEEDED : FAILED
      else this.#fetchPage(hart, address)
    } catch (error) {
      const missing = pageMissingIn(error)
      if (missing) {
        u64[VALUE] = BigInt(missing.page)
        answer = MISSING
      } else this.#onError(error)
    }
    this.served++
    i32[OK] = answer
    Atomics.store(i32, STATE, DONE)
    Atomics.notify(i32, STATE)
  }

  #fetchPage(hart: HartState, page: number): void {
    const { missing, guards } = this.#map.memory
    const there = missing.has(page) ? missing.hartWaits(hart.index, page) : guards.writable(page)
    void there.then(() => request(hart, Request.page))
  }
}
