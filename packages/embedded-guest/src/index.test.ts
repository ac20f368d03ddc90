import { expect, it } from 'vitest'
import * as publicNames from './index.ts'

it('has these public names', () => {
  expect(Object.keys(publicNames).sort()).toEqual([
    'GuestParameterError',
    'createGuestMonitor',
    'embeddedGuestEntry',
    'embeddedGuestImage',
  ])
})
