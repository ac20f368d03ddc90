import type { QEMUFileWriter, StreamSaver } from '@ferryvm/core'
import { be32 } from './postcopy/postcopy-commands.ts'

/** Of the first PING; lower values have a meaning in postcopy. */
const FIRST_VALUE = 16
/** For a destination that has not answered any PING: it may be one that never does. */
const STRANGER_MS = 500
/** The sender may be so far ahead whatever the answers say; beyond the limit it would not pay. */
const LEAST_AHEAD_BYTES = 512 * 1024
const MOST_AHEAD_BYTES = 64 * 2 ** 20
/** What is left of the highest rate at the next answer. */
const RATE_DECAY = 0.95

/**
 * How much of one stream the destination has read, by its answers to PING. Sockets take tens of megabytes that nobody has read:
 * a guest that is stopped while they are full stands until the destination comes to its last pages, and in postcopy a page
 * that is waited for comes behind all of them.
 */
export class ReadMarks {
  #value = FIRST_VALUE
  /** Not answered yet, in order. */
  readonly #marks: { value: number; position: number; sentMs: number; readThen: number }[] = []
  #marked = 0
  #read = 0
  #heard = false
  /** Of the quickest answer. */
  #answerMs = Number.POSITIVE_INFINITY
  /** Bytes per ms. */
  #rate = 0
  /** Is told of every answer. */
  answered: () => void = () => {}

  /** Bytes up to the last mark. */
  get marked(): number {
    return this.#marked
  }

  /** Bytes that have been read, as far as known. */
  get read(): number {
    return this.#read
  }

  /**
   * Bytes that may be on their way without making the channel wait: twice what it takes in the time of its quickest answer, so
   * that a longer way finds its rate step by step.
   */
  get aheadBytes(): number {
    const bytes = this.#rate > 0 ? 2 * this.#rate * this.#answerMs : 0
    return Math.min(Math.max(bytes, LEAST_AHEAD_BYTES), MOST_AHEAD_BYTES)
  }

  /** Asks for an answer when everything up to here was read. Between sections. */
  mark(saver: StreamSaver, f: QEMUFileWriter): void {
    const value = this.#value++
    saver.command('PING', be32(value))
    this.#marked = f.position
    this.#marks.push({ value, position: this.#marked, sentMs: performance.now(), readThen: this.#read })
  }

  /** An answer to any PING. */
  pong(value: number): void {
    this.#heard = true
    const mark = this.#marks.splice(0, this.#marks.findIndex((m) => m.value === value) + 1).at(-1)
    if (!mark) return
    this.#read = mark.position
    const ms = Math.max(performance.now() - mark.sentMs, 0.01)
    this.#answerMs = Math.min(this.#answerMs, ms)
    this.#rate = Math.max(this.#rate * RATE_DECAY, (mark.position - mark.readThen) / ms)
    this.answered()
  }

  /**
   * Resolves when everything up to here was read, or when there is no use in waiting.
   * @param ended settles when nobody answers any more
   * @throws why it was aborted
   */
  async allRead(saver: StreamSaver, f: QEMUFileWriter, ended: Promise<void>, signal: AbortSignal): Promise<void> {
    this.mark(saver, f)
    const wanted = this.#marked
    const { promise, resolve } = Promise.withResolvers<void>()
    this.answered = () => this.#read >= wanted && resolve()
    ended.then(resolve, resolve)
    signal.addEventListener('abort', () => resolve(), { once: true })
    const timer = this.#heard ? undefined : setTimeout(resolve, STRANGER_MS)
    try {
      await f.flush()
      await promise
    } finally {
      clearTimeout(timer)
      this.answered = () => {}
    }
    signal.throwIfAborted()
  }
}
