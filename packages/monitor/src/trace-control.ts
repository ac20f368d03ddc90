import { switchTraceEvents, type TraceEvent, traceEvents } from '@ferryvm/core'
import { MonitorCommandError } from './errors.ts'

/** @param pattern of names, with * and ? @throws MonitorCommandError a plain name that no event has */
export function namedTraceEvents(pattern: string): TraceEvent[] {
  const expression = new RegExp(
    `^${pattern
      .replace(/[^\w*?]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')}$`,
  )
  const found = traceEvents().filter(({ event }) => expression.test(event))
  if (found.length === 0 && !/[*?]/.test(pattern)) throw new MonitorCommandError(`unknown event "${pattern}"`)
  return found
}

/** @throws MonitorCommandError a plain name that no event has */
export function setTraceEvents(pattern: string, on: boolean): void {
  namedTraceEvents(pattern)
  switchTraceEvents(pattern, on)
}
