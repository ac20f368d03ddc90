import { expect, it } from 'vitest'
import * as index from './index.ts'

it('has these public names', () => {
  expect(Object.keys(index).sort()).toEqual([
    'RdmaAddressError',
    'RdmaCapabilityError',
    'RdmaCompletionError',
    'RdmaConnectError',
    'RdmaListenError',
    'RdmaPeerError',
    'RdmaProtocolError',
    'VerbsQueueFullError',
    'VerbsResourceError',
    'VerbsStateError',
    'faultyDevice',
    'faultyFabric',
    'formatRdmaAddress',
    'inProcessFabric',
    'parseRdmaAddress',
    'rdma',
    'socketFabric',
    'softwareDevice',
  ])
})
