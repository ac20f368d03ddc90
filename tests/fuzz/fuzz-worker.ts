/** One process of `pnpm fuzz:streams`: runs the cases it is told, and says after each few how far it has come. */

import { findingOf } from './finding.ts'
import { FuzzCases } from './fuzz-case.ts'

/** What the parent asks for. */
export interface FuzzOrder {
  readonly seed: number
  readonly from: number
  readonly to: number
  /** Cases between two reports; 1 where one of them is known to be bad. */
  readonly every: number
  readonly memoryCapBytes: number
  readonly caseCapMs: number
}
export interface FuzzProgress {
  /** Next case. */
  readonly next: number
  readonly rssBytes: number
  readonly slowestMs: number
  readonly loads: number
  readonly findings: readonly { number: number; target: string; specimen: string; what: string; stack?: string }[]
}

/** No single allocation may be larger: the specimens are a few hundred KB. */
const LARGEST_ALLOCATION_BYTES = 64 << 20

/** A typed array of gigabytes costs no memory until it is touched, so that the process's size would not tell. */
function watchAllocations(): void {
  for (const name of ['Uint8Array', 'Uint32Array', 'BigUint64Array', 'Float64Array'] as const) {
    const { BYTES_PER_ELEMENT } = globalThis[name]
    const watched = new Proxy(globalThis[name] as Uint8ArrayConstructor, {
      construct(target, args: [number], newTarget) {
        if (typeof args[0] === 'number' && args[0] * BYTES_PER_ELEMENT > LARGEST_ALLOCATION_BYTES)
          throw new TypeError(`an allocation of ${args[0] * BYTES_PER_ELEMENT} bytes`)
        return Reflect.construct(target, args, newTarget)
      },
    })
    Object.defineProperty(globalThis, name, { value: watched, configurable: true, writable: true })
  }
}

async function run({ seed, from, to, every, memoryCapBytes, caseCapMs }: FuzzOrder): Promise<void> {
  let number = from
  let stray: unknown
  process.on('unhandledRejection', (error) => (stray ??= error))
  watchAllocations()
  const cases = await FuzzCases.create(seed)
  let found: FuzzProgress['findings'][number][] = []
  let slowestMs = 0
  let loads = 0
  const report = (next: number) => {
    const message: FuzzProgress = { next, rssBytes: process.memoryUsage.rss(), slowestMs, loads, findings: found }
    process.send!(message)
    found = []
  }
  report(from)
  for (; number < to; number++) {
    const { target, specimen, ms, finding } = await cases.run(number)
    const note = (what: string, stack?: string) =>
      found.push({ number, target, specimen, what, ...(stack !== undefined && { stack }) })
    if (finding) note(finding.what, finding.stack)
    if (target === 'loader') loads++
    slowestMs = Math.max(slowestMs, ms)
    if (ms > caseCapMs) note(`${Math.round(ms)} ms, more than ${caseCapMs}`)
    if (stray !== undefined) {
      const { what, stack } = findingOf(stray)
      note(`a rejection nobody handles: ${what}`, stack)
      stray = undefined
    }
    if (number % 64 === 0) {
      const rss = process.memoryUsage.rss()
      if (rss > memoryCapBytes) {
        note(`the process has ${Math.round(rss / 2 ** 20)} MiB`)
        report(number + 1)
        break
      }
    }
    if ((number + 1) % every === 0) report(number + 1)
  }
  report(number)
  process.disconnect()
  process.exit(0)
}

process.once('message', (order: FuzzOrder) => void run(order))
