import { channel } from 'node:diagnostics_channel'
import { onTrace } from '../trace/trace-event.ts'

/**
 * Publishes every trace event that is on as `ferryvm:<event>` of `node:diagnostics_channel`. The message is an object with the event's
 * arguments by name.
 */
export function publishTraceEvents(): Disposable {
  return onTrace((event, values) => channel(`ferryvm:${event}`).publish(values))
}
