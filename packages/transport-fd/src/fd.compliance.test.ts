import { silentLogger } from '@ferryvm/core'
import { describe, it } from 'vitest'
import { channelCompliance } from '../../compliance/src/transport/index.ts'
import { fd } from './index.ts'
import { socketPair } from './socket-pair-testing.ts'

describe('fd, over a socket', () => {
  channelCompliance(
    { describe, it },
    {
      async pair() {
        const context = { signal: new AbortController().signal, log: silentLogger }
        const [near, far] = await socketPair()
        const listener = await fd().listen(far, context)
        const { value } = await listener[Symbol.asyncIterator]().next()
        return [await fd().connect(near, context), value]
      },
    },
  )
})
