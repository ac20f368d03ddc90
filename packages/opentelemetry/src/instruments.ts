import type { Migration, MigrationInfo, MigrationStatus } from '@ferryvm/migration'
import type { Attributes, Meter, ObservableResult } from '@opentelemetry/api'

export interface Instruments extends Disposable {
  /** A migration is over. @param info of the side that sent; empty for the other one */
  ended(status: MigrationStatus, direction: string, info: MigrationInfo): void
}

/** Seconds; a guest's downtime lies between a millisecond and some seconds. */
const DOWNTIME_BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10]
const DURATION_BOUNDARIES = [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]

export function instruments(meter: Meter, migration: Migration, attributes: Attributes): Instruments {
  const count = meter.createCounter('ferryvm.migrations', { description: 'Migrations that have ended, by outcome' })
  const duration = meter.createHistogram('ferryvm.migration.duration', {
    unit: 's',
    description: 'From the start of a migration that was completed to its end',
    advice: { explicitBucketBoundaries: DURATION_BOUNDARIES },
  })
  const downtime = meter.createHistogram('ferryvm.migration.downtime', {
    unit: 's',
    description: 'How long the guest stood still',
    advice: { explicitBucketBoundaries: DOWNTIME_BOUNDARIES },
  })
  const sent = meter.createCounter('ferryvm.migration.sent', {
    unit: 'By',
    description: 'Sent by migrations that have ended',
  })
  const remaining = meter.createObservableGauge('ferryvm.migration.remaining', {
    unit: 'By',
    description: 'What the destination lacks, as far as known',
  })
  const dirtyRate = meter.createObservableGauge('ferryvm.migration.dirty_pages_rate', {
    unit: '{page}/s',
    description: 'How fast the guest writes to pages that were sent',
  })
  const observe = (value: (ram: NonNullable<MigrationInfo['ram']>) => number) => (result: ObservableResult) => {
    const { ram } = migration.info()
    if (ram) result.observe(value(ram), attributes)
  }
  const observed = [
    { gauge: remaining, callback: observe((ram) => ram.remaining) },
    { gauge: dirtyRate, callback: observe((ram) => ram['dirty-pages-rate']) },
  ]
  for (const { gauge, callback } of observed) gauge.addCallback(callback)
  return {
    ended(status, direction, info) {
      const facts = { ...attributes, 'ferryvm.migration.status': status, 'ferryvm.migration.direction': direction }
      count.add(1, facts)
      if (info.ram) sent.add(info.ram.transferred, facts)
      if (status !== 'completed') return
      if (info['total-time'] !== undefined) duration.record(info['total-time'] / 1000, facts)
      if (info.downtime !== undefined) downtime.record(info.downtime / 1000, facts)
    },
    [Symbol.dispose]() {
      for (const { gauge, callback } of observed) gauge.removeCallback(callback)
    },
  }
}
