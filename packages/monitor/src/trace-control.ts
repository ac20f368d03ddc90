import { switchTraceEvents, type TraceEvent, traceEvents } from '@ferryvm/core'
import { MonitorCommandError } from './errors.ts'

/** @param pattern of names, with * and ? @throws MonitorCommandError a plain name that no event has */
export function namedTraceEvents(pattern: string): readonly TraceEvent[] {
  const found = traceEvents(pattern)
  if (found.length === 0 && !/[*?]/.test(pattern)) throw new MonitorCommandError(`unknown event "${pattern}"`)
  return found
}

/** @throws MonitorCommandError a plain name that no event has */
export function setTraceEvents(pattern: string, on: boolean): void {
  namedTraceEvents(pattern)
  switchTraceEvents(pattern, on)
}
