/**
 * Listens to the embedded guest's console and says whether any of its output was lost, repeated or made up. The text may
 * come from several machines one after the other: feed it in the order in which they ran, cut anywhere.
 */

/** One `T` line. */
export interface GuestLine {
  /** Number of the line; the guest starts at 1. */
  n: number
  /** Completed passes over the walked memory. */
  passes: number
  /** Completed disk requests. */
  requests: number
  /** Value of the chain held in registers. */
  lcg: bigint
  errors: number
  chain: bigint
}

/** The guest's own judgement, after it verified all memory, the disk, its registers and its output. */
export interface GuestVerdict {
  ok: boolean
  /** First error; empty when ok. */
  why: string
  lines: number
  passes: number
  requests: number
  /** Remapped I/O addresses, or undefined when no device is behind an IOMMU. */
  remaps: number | undefined
  /** Harts that compute. */
  harts: number
  errors: number
  text: string
}

export interface GuestMonitorOptions {
  /** Called for each `T` line. */
  onLine?: (line: GuestLine) => void
  /** Called for each thing that is wrong, as it is found. */
  onProblem?: (problem: string) => void
}

export interface GuestMonitor {
  /** Takes console output; bytes are ASCII. */
  push(chunk: string | Uint8Array): void
  /** `T` lines seen. */
  readonly lines: number
  readonly last: GuestLine | undefined
  /** The guest's seed, once its banner was seen. */
  readonly seed: bigint | undefined
  /** What the banner says: `disk`, `rng`, `iommu`, `memory`. */
  readonly banner: ReadonlyMap<string, string>
  /** Loss, repetition, garbled lines, and every error that the guest reports; empty when all is well. */
  readonly problems: readonly string[]
  readonly verdicts: readonly GuestVerdict[]
  /** Latest answer to `s`, by name (`inflight`, `ticks`, ...). */
  readonly status: ReadonlyMap<string, number>
  /** All text so far. */
  readonly text: string
  /**
   * Resolves as soon as `condition` holds, looked at after each chunk.
   * @throws Error after `timeoutMs`, with the last lines of output
   */
  until(condition: (monitor: GuestMonitor) => boolean, timeoutMs: number): Promise<void>
}

const linePattern = /^T (\d+) mem (\d+) blk (\d+) lcg ([0-9a-f]{16}) err (\d+) chain ([0-9a-f]{16})$/
const bannerPattern = /^ferry embedded guest 1 seed ([0-9a-f]{16})$/
const verdictPattern = /^VERDICT (ok|FAIL (.+?))((?: [a-z]+=\S+)*)$/
const mask = 2n ** 64n - 1n

/** The guest's `mix` (main.c): the finaliser of splitmix64. */
function mix(value: bigint): bigint {
  let v = value & mask
  v = ((v ^ (v >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
  v = ((v ^ (v >> 27n)) * 0x94d049bb133111ebn) & mask
  return v ^ (v >> 31n)
}

function nextChain(chain: bigint, line: GuestLine): bigint {
  return mix(mix(chain ^ BigInt(line.n)) ^ line.lcg ^ ((BigInt(line.requests) << 32n) & mask) ^ BigInt(line.passes))
}

function fieldsOf(text: string): Map<string, string> {
  return new Map(Array.from(text.matchAll(/([a-z]+)=(\S+)/g), (m) => [m[1], m[2]]))
}

function parseVerdict(text: string): GuestVerdict | undefined {
  const match = verdictPattern.exec(text)
  if (!match) return undefined
  const fields = fieldsOf(match[3])
  const count = (name: string) => Number(fields.get(name) ?? 0)
  const remaps = fields.get('iommu')
  return {
    ok: match[1] === 'ok' && count('errors') === 0,
    why: match[2] ?? '',
    lines: count('lines'),
    passes: count('mem'),
    requests: count('blk'),
    remaps: remaps === undefined || remaps === 'none' ? undefined : Number(remaps),
    harts: count('harts'),
    errors: count('errors'),
    text,
  }
}

/** Starts listening; see {@link GuestMonitor}. A monitor that joins late trusts the first line it sees. */
export function createGuestMonitor(options: GuestMonitorOptions = {}): GuestMonitor {
  const problems: string[] = []
  const verdicts: GuestVerdict[] = []
  const banner = new Map<string, string>()
  const waiting = new Set<() => void>()
  let status = new Map<string, number>()
  let text = ''
  let parsed = 0
  let lines = 0
  let last: GuestLine | undefined
  let seed: bigint | undefined
  let running = false

  function problem(what: string) {
    problems.push(what)
    options.onProblem?.(what)
  }

  function takeLine(line: GuestLine) {
    const before = last
    if (before || seed !== undefined) {
      const expected = (before?.n ?? 0) + 1
      if (line.n > expected) problem(`lost: ${line.n - expected} line(s), from ${expected} to ${line.n - 1}`)
      else if (line.n < expected) problem(`repeated: line ${line.n} came again after line ${expected - 1}`)
      else if (nextChain(before?.chain ?? seed!, line) !== line.chain) {
        problem(`line ${line.n}: the chain does not follow from line ${expected - 1}`)
      }
    }
    if (before && line.n > before.n && (line.passes < before.passes || line.requests < before.requests)) {
      problem(`line ${line.n}: counters went back`)
    }
    last = line
    lines++
    running = true
    options.onLine?.(line)
  }

  function take(row: string) {
    const match = linePattern.exec(row)
    if (match) {
      const [n, passes, requests, errors] = [match[1], match[2], match[3], match[5]].map(Number)
      takeLine({ n, passes, requests, errors, lcg: BigInt(`0x${match[4]}`), chain: BigInt(`0x${match[6]}`) })
      return
    }
    const start = bannerPattern.exec(row)
    if (start) {
      if (seed !== undefined || last) problem('restarted: the guest began anew')
      seed = BigInt(`0x${start[1]}`)
      last = undefined
      running = false
      return
    }
    const verdict = parseVerdict(row)
    if (verdict) {
      verdicts.push(verdict)
      if (!verdict.ok) problem(row)
      return
    }
    if (row.startsWith('STATUS ')) {
      status = new Map(Array.from(fieldsOf(row), ([name, value]) => [name, Number(value)]))
      return
    }
    if (row.startsWith('ERR ') || row.startsWith('FATAL ')) {
      problem(row)
      return
    }
    const pair = /^(disk|rng|iommu|memory): (.*)$/.exec(row)
    if (pair && !running) banner.set(pair[1], pair[2])
    else if (running && row !== '') problem(`garbled: ${JSON.stringify(row.slice(0, 120))}`)
  }

  const decoder = new TextDecoder('latin1')
  const monitor: GuestMonitor = {
    push(chunk) {
      text += typeof chunk === 'string' ? chunk : decoder.decode(chunk)
      for (let end = text.indexOf('\n', parsed); end >= 0; end = text.indexOf('\n', parsed)) {
        const row = text.slice(parsed, end).replace(/\r+$/, '')
        parsed = end + 1
        take(row)
      }
      for (const wake of [...waiting]) wake()
    },
    get lines() {
      return lines
    },
    get last() {
      return last
    },
    get seed() {
      return seed
    },
    banner,
    problems,
    verdicts,
    get status() {
      return status
    },
    get text() {
      return text
    },
    until(condition, timeoutMs) {
      return new Promise((resolve, reject) => {
        const stop = () => {
          clearTimeout(timer)
          waiting.delete(wake)
        }
        const wake = () => {
          if (!condition(monitor)) return
          stop()
          resolve()
        }
        const timer = setTimeout(() => {
          stop()
          reject(new Error(`embedded guest: nothing after ${timeoutMs} ms; last output:\n${text.slice(-600)}`))
        }, timeoutMs)
        waiting.add(wake)
        wake()
      })
    },
  }
  return monitor
}
