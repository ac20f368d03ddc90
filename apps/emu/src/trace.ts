import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { onTrace, switchTraceEvents, type TraceValue, traceEvents } from '@ferryvm/core'
import { publishTraceEvents } from '@ferryvm/core/node'
import type { TraceOption } from './run-options.ts'
import { UsageError } from './usage-error.ts'

/** A line per event that this program has: its name and arguments. */
export const traceHelp = (): string =>
  traceEvents()
    .map(
      ({ event, args }) =>
        `${event}(${Object.entries(args)
          .map(([name, kind]) => `${name}:${kind}`)
          .join(', ')})`,
    )
    .join('\n')

/**
 * `-trace`: switches events on and writes them, a line each; they go to `node:diagnostics_channel` as well.
 * @throws UsageError an unknown event, or a file that cannot be used
 */
export function startTracing(options: readonly TraceOption[]): Disposable {
  const published = publishTraceEvents()
  for (const { enable, events } of options) {
    if (events !== undefined) for (const [pattern, on] of readPatterns(events)) switchOrThrow(pattern, on)
    if (enable !== undefined) switchOrThrow(enable, true)
  }
  if (options.length === 0) return published
  const path = options.findLast(({ file }) => file !== undefined)?.file
  const out = path === undefined ? 2 : attempt(path, () => openSync(path, 'w'))
  const written = onTrace((event, values) => void writeSync(out, `${lineOf(event, values)}\n`))
  return {
    [Symbol.dispose]() {
      written[Symbol.dispose]()
      published[Symbol.dispose]()
      if (path !== undefined) closeSync(out)
    },
  }
}

function switchOrThrow(pattern: string, on: boolean): void {
  if (switchTraceEvents(pattern, on) === 0)
    throw new UsageError(`-trace ${pattern}: no such event; -trace help lists them`)
}

function readPatterns(path: string): [pattern: string, on: boolean][] {
  return attempt(path, () => readFileSync(path, 'utf8'))
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => (line.startsWith('-') ? [line.slice(1), false] : [line, true]))
}

function attempt<T>(path: string, use: () => T): T {
  try {
    return use()
  } catch (error) {
    throw new UsageError(`-trace: ${path}: ${(error as Error).message}`)
  }
}

function lineOf(event: string, values: Readonly<Record<string, TraceValue>>): string {
  const words = Object.entries(values).map(([name, v]) => `${name}=${typeof v === 'string' ? JSON.stringify(v) : v}`)
  return [event, ...words].join(' ')
}
