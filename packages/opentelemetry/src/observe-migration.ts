import { onTrace, switchTraceEvents, type TraceValue, traceEvents } from '@ferryvm/core'
import type { Migration, MigrationInfo, MigrationStatus } from '@ferryvm/migration'
import {
  type Attributes,
  type Context,
  context,
  type MeterProvider,
  metrics,
  type Span,
  SpanStatusCode,
  type TracerProvider,
  trace,
} from '@opentelemetry/api'
import { instruments } from './instruments.ts'

const SCOPE = '@ferryvm/opentelemetry'
/** In these no migration is under way. */
const OVER: ReadonlySet<MigrationStatus> = new Set<MigrationStatus>(['none', 'completed', 'failed', 'cancelled'])

export interface ObserveOptions {
  /** Default: the global ones of `@opentelemetry/api`. */
  readonly tracerProvider?: TracerProvider
  readonly meterProvider?: MeterProvider
  /** Of every span and measurement: which machine it is, say. */
  readonly attributes?: Attributes
  /**
   * Names or patterns of trace events (docs/tracing.md) that become events of the span of the phase in which they fire; they are
   * switched on. Trace events know of no machine: of two migrations in one process both get them. Default none.
   */
  readonly events?: readonly string[]
}

/**
 * From now on every migration of that machine, in either direction, is a span `migration` with a span `migration.<status>` below it for
 * each status that it goes through, and counts in the metrics. A migration that is under way is observed from its next status on.
 *
 * @returns ends the observation, and the spans that are open
 */
export function observeMigration(migration: Migration, options: ObserveOptions = {}): Disposable {
  const { attributes = {}, events = [] } = options
  const tracer = (options.tracerProvider ?? trace.getTracerProvider()).getTracer(SCOPE)
  const meter = (options.meterProvider ?? metrics.getMeterProvider()).getMeter(SCOPE)
  const measures = instruments(meter, migration, attributes)
  let current: ObservedRun | undefined
  const wanted = wantedBy(events)
  for (const pattern of events) switchTraceEvents(pattern, true)

  const subscriptions = [
    migration.on('status', (status) => {
      if (!OVER.has(status)) {
        current ??= new ObservedRun((name, spanAttributes, parent) =>
          tracer.startSpan(name, { attributes: { ...attributes, ...spanAttributes } }, parent),
        )
        current.enter(status)
      } else if (current) {
        current.end(status, migration)
        measures.ended(status, current.direction, current.direction === 'outgoing' ? migration.info() : {})
        current = undefined
      }
    }),
    migration.on('pass', (count) => current?.passed(count, migration.info())),
    migration.on('section', ({ direction }) => current?.moves(direction === 'save' ? 'outgoing' : 'incoming')),
    onTrace((event, values) => {
      if (wanted(event)) current?.phase?.addEvent(event, eventAttributes(values))
    }),
    measures,
  ]
  return {
    [Symbol.dispose]() {
      for (const subscription of subscriptions) subscription[Symbol.dispose]()
      current?.end(migration.status, migration)
      current = undefined
      for (const pattern of events) switchTraceEvents(pattern, false)
    },
  }
}

type StartSpan = (name: string, attributes: Attributes, parent: Context) => Span

class ObservedRun {
  /** Known once the first section is on its way. */
  direction: 'outgoing' | 'incoming' | 'unknown' = 'unknown'
  phase: Span | undefined
  readonly #start: StartSpan
  readonly #root: Span
  readonly #below: Context

  constructor(start: StartSpan) {
    this.#start = start
    this.#root = start('migration', {}, context.active())
    this.#below = trace.setSpan(context.active(), this.#root)
  }

  enter(status: MigrationStatus): void {
    this.phase?.end()
    this.phase = this.#start(`migration.${status}`, { 'ferryvm.migration.status': status }, this.#below)
  }

  moves(direction: 'outgoing' | 'incoming'): void {
    this.direction = direction
  }

  passed(count: number, { ram }: MigrationInfo): void {
    this.phase?.addEvent('pass', {
      'ferryvm.pass': count,
      ...(ram && {
        'ferryvm.ram.remaining': ram.remaining,
        'ferryvm.ram.transferred': ram.transferred,
        'ferryvm.ram.dirty_pages_rate': ram['dirty-pages-rate'],
      }),
    })
  }

  end(status: MigrationStatus, migration: Migration): void {
    this.phase?.end()
    this.phase = undefined
    this.#root.setAttributes({
      'ferryvm.migration.status': status,
      'ferryvm.migration.direction': this.direction,
      ...outcome(migration.info()),
    })
    if (status === 'failed') {
      const { error } = migration
      if (error) this.#root.recordException(error)
      this.#root.setStatus({ code: SpanStatusCode.ERROR, message: error?.message ?? '' })
    }
    this.#root.end()
  }
}

/** Names are those of `query-migrate`, units in seconds and bytes. */
function outcome(info: MigrationInfo): Attributes {
  const { downtime, ram } = info
  return {
    ...(downtime !== undefined && { 'ferryvm.migration.downtime': downtime / 1000 }),
    ...(ram && {
      'ferryvm.ram.transferred': ram.transferred,
      'ferryvm.ram.total': ram.total,
      'ferryvm.ram.passes': ram['dirty-sync-count'],
      'ferryvm.ram.normal_pages': ram.normal,
      'ferryvm.ram.zero_pages': ram.duplicate,
    }),
  }
}

/** Packages that are loaded later bring further events. */
function wantedBy(patterns: readonly string[]): (event: string) => boolean {
  const known = new Map<string, boolean>()
  return (name) => {
    let wanted = known.get(name)
    if (wanted === undefined) {
      wanted = patterns.some((pattern) => traceEvents(pattern).some(({ event }) => event === name))
      known.set(name, wanted)
    }
    return wanted
  }
}

/** OpenTelemetry has no integers beyond doubles. */
const eventAttributes = (values: Readonly<Record<string, TraceValue>>): Attributes =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => [name, typeof value === 'bigint' ? Number(value) : value]),
  )
