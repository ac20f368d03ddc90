import { createColo, heartbeatGuard } from '@ferryvm/colo'
import { lockFileFence } from '@ferryvm/colo/node'
import type { Transport } from '@ferryvm/core'
import type { Colo } from '@ferryvm/migration'
import { isOn, type Keyvals } from '../keyval.ts'
import { UsageError } from '../usage-error.ts'
import { readPair } from './pair-file.ts'

const PROPERTIES = ['dir', 'hold-output', 'secondary']

/**
 * `-colo dir=D[,hold-output=off][,secondary=run]`. Without `dir` nobody watches over the peer, as with stock QEMU.
 * @throws UsageError
 */
export function coloOf(
  { dir, 'hold-output': hold = 'on', secondary = 'wait', ...rest }: Keyvals,
  transports: readonly Transport<any>[],
): Colo {
  const unknown = Object.keys(rest)[0]
  if (unknown) throw new UsageError(`-colo ${unknown}: unknown property (there are: ${PROPERTIES.join(', ')})`)
  if (secondary !== 'wait' && secondary !== 'run') throw new UsageError(`-colo secondary=${secondary}: wait or run`)
  return createColo({
    holdOutput: isOn(hold),
    secondaryRuns: secondary === 'run',
    guard: dir === undefined ? undefined : () => guardOf(dir, transports),
  })
}

function guardOf(dir: string, transports: readonly Transport<any>[]) {
  const { session, fence, heartbeats, intervalMs, timeoutMs } = readPair(dir)
  const paths = heartbeats.map((uri) => {
    const transport = transports.find(({ scheme }) => uri.startsWith(`${scheme}:`))
    if (!transport) throw new UsageError(`heartbeat ${uri}: no such transport`)
    return { transport, address: transport.parseAddress(uri.slice(transport.scheme.length + 1)) }
  })
  return heartbeatGuard({ paths, session, fence: lockFileFence(fence), intervalMs, timeoutMs })
}
