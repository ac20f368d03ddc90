import { expect, it } from 'vitest'
import * as index from './index.ts'

it('has these public names', () => {
  expect(Object.keys(index).sort()).toEqual([
    'BlockLoadError',
    'CAPABILITIES',
    'CapabilityError',
    'DestinationFailedError',
    'DirtyBitmapLoadError',
    'ForkError',
    'JournalError',
    'LazySourceError',
    'MigrationBlockedError',
    'MigrationCancelledError',
    'MigrationStateError',
    'MigrationUriError',
    'MigrationYankedError',
    'MultifdError',
    'PARAMETERS',
    'ParameterError',
    'RamLoadError',
    'RamLoader',
    'RamSaver',
    'ReturnPathError',
    'SnapshotError',
    'UnwelcomePeerError',
    'createMigration',
    'createSnapshots',
    'createZeroPageTest',
    'forkMachine',
    'forkTransport',
    'isRunning',
    'reconcile',
  ])
})
