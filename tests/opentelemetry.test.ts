/** Spans and metrics of real migrations, as an OpenTelemetry SDK collects them. */
import { observeMigration } from '@ferryvm/opentelemetry'
import { SpanStatusCode } from '@opentelemetry/api'
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-base'
import { describe, expect, it } from 'vitest'
import { startOurs } from './bench/bench-guest.ts'
import { createVm } from './harness/vm.ts'

const RAM_BYTES = 64 * 2 ** 20

function collector() {
  const spans = new InMemorySpanExporter()
  const metrics = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
  const reader = new PeriodicExportingMetricReader({ exporter: metrics, exportIntervalMillis: 2 ** 30 })
  return {
    spans,
    tracerProvider: new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }),
    meterProvider: new MeterProvider({ readers: [reader] }),
    /** By name: the values of their data points. */
    async metrics() {
      await reader.forceFlush()
      const all = metrics
        .getMetrics()
        .at(-1)!
        .scopeMetrics.flatMap((scope) => scope.metrics)
      return Object.fromEntries(all.map((m) => [m.descriptor.name, m.dataPoints.map(({ value }) => value as any)]))
    },
  }
}

const named = (spans: readonly ReadableSpan[], name: string) => spans.filter((span) => span.name === name)

describe('OpenTelemetry', { timeout: 120_000 }, () => {
  it('sees the phases of a migration at both ends, its passes, trace events and figures', async () => {
    await using from = await startOurs(RAM_BYTES)
    await using to = await createVm({ ramBytes: RAM_BYTES, onOutput: (text) => from.console.push(text) })
    const [source, destination] = [collector(), collector()]
    const attributes = { 'test.machine': 'a' }
    using _source = observeMigration(from.vm.migration, { ...source, attributes, events: ['savevm_section_end'] })
    using _ = observeMigration(to.migration, destination)
    await from.console.run('fill', 48)
    const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
    await Promise.all([from.vm.migration.migrate(incoming.uri), incoming.done])

    const sent = source.spans.getFinishedSpans()
    const [root] = named(sent, 'migration')
    const info = from.vm.migration.info()
    expect(root!.attributes).toMatchObject({
      'test.machine': 'a',
      'ferryvm.migration.status': 'completed',
      'ferryvm.migration.direction': 'outgoing',
      'ferryvm.migration.downtime': info.downtime! / 1000,
      'ferryvm.ram.transferred': info.ram!.transferred,
      'ferryvm.ram.passes': info.ram!['dirty-sync-count'],
    })
    const phases = sent.filter(({ name }) => name !== 'migration')
    expect(phases.map(({ name }) => name)).toEqual(['migration.setup', 'migration.active', 'migration.device'])
    for (const phase of phases) {
      expect(phase.parentSpanContext?.spanId).toBe(root!.spanContext().spanId)
      expect(phase.attributes['test.machine']).toBe('a')
    }
    const events = sent.flatMap((span) => span.events.map((event) => ({ phase: span.name, ...event })))
    expect(events.filter(({ name }) => name === 'pass')).toHaveLength(info.ram!['dirty-sync-count'])
    expect(events.filter(({ name }) => name === 'savevm_section_end')).toContainEqual(
      expect.objectContaining({ phase: 'migration.device', attributes: expect.objectContaining({ id: 'cpu' }) }),
    )

    const [arrived] = named(destination.spans.getFinishedSpans(), 'migration')
    expect(arrived!.attributes).toEqual({
      'ferryvm.migration.status': 'completed',
      'ferryvm.migration.direction': 'incoming',
    })

    const metrics = await source.metrics()
    expect(metrics['ferryvm.migrations']).toEqual([1])
    expect(metrics['ferryvm.migration.sent']).toEqual([info.ram!.transferred])
    expect(metrics['ferryvm.migration.duration']![0]).toMatchObject({ count: 1, sum: info['total-time']! / 1000 })
    expect(metrics['ferryvm.migration.downtime']![0]).toMatchObject({ count: 1, sum: info.downtime! / 1000 })
  })

  it('sees why a migration failed', async () => {
    await using from = await startOurs(RAM_BYTES)
    const { migration } = from.vm
    const source = collector()
    using _ = observeMigration(migration, source)
    await expect(migration.migrate('tcp:127.0.0.1:1')).rejects.toThrow()
    const [root] = named(source.spans.getFinishedSpans(), 'migration')
    expect(root!.status).toEqual({ code: SpanStatusCode.ERROR, message: migration.error!.message })
    expect(root!.events.map(({ name }) => name)).toEqual(['exception'])
    expect(root!.attributes['ferryvm.migration.direction']).toBe('unknown')
    expect((await source.metrics())['ferryvm.migrations']).toEqual([1])
  })
})
