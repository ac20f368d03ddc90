import { expect, it } from 'vitest'
import * as colo from './index.ts'

/** A name that is added or taken away shows up here, and belongs first into the description of the change. */
it('exports these values', () => {
  expect(Object.keys(colo).sort()).toEqual([
    'ColoCheckpointError',
    'ColoFencedError',
    'ColoGuardError',
    'ColoProtocolError',
    'ColoStateError',
    'createColo',
    'heartbeatGuard',
  ])
})
