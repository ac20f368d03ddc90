import { afterEach } from 'vitest'
import { inProcessFabric } from '../software/in-process-fabric.ts'
import type { Fabric } from '../software/link.ts'
import { socketFabric } from '../software/socket-fabric.ts'
import { type SoftwareDevice, type SoftwareDeviceOptions, softwareDevice } from '../software/software-device.ts'
import type {
  CompletionQueue,
  Connection,
  MemoryAccess,
  MemoryRegion,
  ProtectionDomain,
  QueuePair,
  ScatterGather,
  WorkCompletion,
} from '../verbs/verbs.ts'

export const FABRICS: readonly (readonly [name: string, make: () => Fabric])[] = [
  ['in-process', inProcessFabric],
  ['socket', socketFabric],
]

/** One end of a connection, with its completions as they come. */
export interface VerbsEnd {
  readonly device: SoftwareDevice
  readonly domain: ProtectionDomain
  readonly completions: CompletionQueue
  readonly queuePair: QueuePair
  readonly connection: Connection
  register(bytes: Uint8Array, access?: MemoryAccess): MemoryRegion
  /** The next completion. */
  next(): Promise<WorkCompletion>
}

export interface PairOptions {
  readonly fabric: Fabric
  readonly device?: SoftwareDeviceOptions
  readonly maxSendWork?: number
  readonly maxReceiveWork?: number
  readonly depth?: number
  readonly retryCount?: number
  readonly receiverNotReadyRetryCount?: number
}

export const localhost = { host: '127.0.0.1', port: 0 }
const open: SoftwareDevice[] = []
afterEach(() => {
  for (const device of open.splice(0)) device.close()
})

export async function verbsPair(options: PairOptions): Promise<[VerbsEnd, VerbsEnd]> {
  const { fabric, retryCount = 3, receiverNotReadyRetryCount = 0 } = options
  const times = { acknowledgeTimeoutMs: 100, receiverNotReadyMs: 5, ...options.device }
  const [near, far] = [softwareDevice(fabric, times), softwareDevice(fabric, times)]
  open.push(near, far)
  const signal = new AbortController().signal
  const listener = await far.connections.listen(localhost, { signal })
  const [a, b] = [endOf(near, options), endOf(far, options)]
  const common = { privateData: new Uint8Array(8), retryCount, receiverNotReadyRetryCount }
  const [there, here] = await Promise.all([
    (async () => (await listener.next())!.accept({ queuePair: b.queuePair, ...common }))(),
    near.connections.connect(listener.address, { queuePair: a.queuePair, ...common, timeoutMs: 5000, signal }),
  ])
  await listener.close()
  return [
    { ...a, connection: here },
    { ...b, connection: there },
  ]
}

function endOf(device: SoftwareDevice, options: PairOptions): Omit<VerbsEnd, 'connection'> {
  const { maxSendWork = 16, maxReceiveWork = 16, depth = 64 } = options
  const domain = device.allocateProtectionDomain()
  const completions = device.createCompletionQueue(depth)
  const queuePair = device.createQueuePair({
    domain,
    sendCompletions: completions,
    receiveCompletions: completions,
    maxSendWork,
    maxReceiveWork,
  })
  queuePair.modify('init')
  return {
    device,
    domain,
    completions,
    queuePair,
    register: (bytes, access = { localWrite: true, remoteWrite: true }) => domain.registerMemory(bytes, access),
    async next() {
      for (;;) {
        const [completion] = completions.poll(1)
        if (completion) return completion
        await completions.wait()
      }
    },
  }
}

export const all = ({ address, length, lkey }: MemoryRegion): ScatterGather => ({ address, length, lkey })
export const part = ({ address, lkey }: MemoryRegion, at: number, length: number): ScatterGather => ({
  address: address + BigInt(at),
  length,
  lkey,
})
