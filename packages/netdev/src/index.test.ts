import { expect, it } from 'vitest'
import * as main from './index.ts'
import * as node from './node/index.ts'

it('exports exactly this', () => {
  expect(Object.keys(main).sort()).toEqual([
    'FrameSplitter',
    'NetFrameError',
    'NetHub',
    'UserNet',
    'lengthPrefixed',
    'slirp',
    'slirpVmstate',
  ])
  expect(Object.keys(node).sort()).toEqual(['DatagramNet', 'StreamNet', 'addressText'])
})
