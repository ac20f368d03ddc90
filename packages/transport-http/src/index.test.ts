import { expect, it } from 'vitest'
import * as index from './index.ts'

it('has these public names', () => {
  expect(Object.keys(index).sort()).toEqual([
    'HttpAddressError',
    'HttpChangedError',
    'HttpRangeError',
    'HttpRequestError',
    'http',
    'https',
  ])
})
