import {
  type Channel,
  type ChannelFeature,
  defineTransport,
  type Listener,
  type Transport,
  type TransportContext,
} from '@ferryvm/core'
import { formatRdmaAddress, parseRdmaAddress } from './address.ts'
import { RdmaCapabilityError } from './errors.ts'
import { connectionParameters, readConnectionParameters } from './protocol/connection-parameters.ts'
import { ControlConnection } from './protocol/control-connection.ts'
import { RamReceiver } from './protocol/ram-receiver.ts'
import { RamSender } from './protocol/ram-sender.ts'
import { RdmaChannel } from './protocol/rdma-channel.ts'
import { trace } from './protocol/rdma-trace.ts'
import { socketFabric } from './software/socket-fabric.ts'
import { softwareDevice } from './software/software-device.ts'
import { RdmaConnectError } from './verbs/errors.ts'
import type { ConnectionRequest, RdmaAddress, RdmaDevice } from './verbs/verbs.ts'

export interface RdmaOptions {
  /** Default: a software device that reaches other processes by sockets. */
  readonly device?: RdmaDevice
  /** Register all memory at once instead of chunk by chunk. Default: as the capability `rdma-pin-all` of the migration says. */
  readonly pinAll?: boolean
  /** A second connection for the way back. Default true; false is for a peer that has neither return-path nor postcopy. */
  readonly returnPath?: boolean
  /** Registered chunks are unregistered after each phase, so that less memory is pinned. Default false. */
  readonly unregister?: boolean
  /** Default 10000. */
  readonly connectTimeoutMs?: number
  /** For the second connection. Default 5000. */
  readonly returnPathTimeoutMs?: number
}

const FEATURES: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>(['shutdown'])
const CONNECT_TIMEOUT_MS = 10_000
const RETURN_PATH_TIMEOUT_MS = 5000
const RETRY_COUNT = 5
/** Messages are sent only when a receive is posted. */
const RECEIVER_NOT_READY_RETRY_COUNT = 0
/** Channels that wait to be taken from a listener. */
const BACKLOG = 16
/** They need channels without limit, or a file. Spec: protocol.md sections 7 and 11. */
const IMPOSSIBLE = ['multifd', 'xbzrle', 'postcopy-preempt', 'mapped-ram']

/** `rdma:host:port`. Pages go from memory to memory, beside the stream. Spec: protocol.md section 11. */
export function rdma(options: RdmaOptions = {}): Transport<RdmaAddress> {
  const device = options.device ?? softwareDevice(socketFabric())
  /** The listener takes a second connection for the way back of the first, so ours come in pairs. */
  let connecting: Promise<unknown> = Promise.resolve()
  return defineTransport<RdmaAddress>({
    scheme: 'rdma',
    features: FEATURES,
    parseAddress: parseRdmaAddress,
    formatAddress: formatRdmaAddress,
    connect(address, context) {
      refuseCapabilities(context)
      const channel = connecting.then(() => connect(device, address, options, context))
      connecting = channel.catch(() => {})
      return channel
    },
    listen(address, context) {
      refuseCapabilities(context)
      return listen(device, address, options, context)
    },
  })
}

function refuseCapabilities({ capabilities }: TransportContext): void {
  const found = IMPOSSIBLE.find((name) => capabilities?.has(name))
  if (found) throw new RdmaCapabilityError(found)
}

async function connect(
  device: RdmaDevice,
  address: RdmaAddress,
  options: RdmaOptions,
  context: TransportContext,
): Promise<Channel> {
  const { connectTimeoutMs = CONNECT_TIMEOUT_MS, returnPathTimeoutMs = RETURN_PATH_TIMEOUT_MS } = options
  const wanted = options.pinAll ?? context.capabilities?.has('rdma-pin-all') ?? false
  const open = async (timeoutMs: number): Promise<[ControlConnection, { pinAll: boolean }]> => {
    const control = new ControlConnection(device)
    trace.rdma_start_outgoing_migration_after_rdma_source_init({})
    try {
      if (wanted) trace.qemu_rdma_connect_pin_all_requested({})
      const connection = await device.connections.connect(address, {
        queuePair: control.queuePair,
        privateData: connectionParameters({ pinAll: wanted }),
        retryCount: RETRY_COUNT,
        receiverNotReadyRetryCount: RECEIVER_NOT_READY_RETRY_COUNT,
        timeoutMs,
        signal: context.signal,
      })
      control.connected(connection)
      const agreed = readConnectionParameters(connection.privateData)
      trace.qemu_rdma_connect_pin_all_outcome({ pin: agreed.pinAll })
      trace.rdma_start_outgoing_migration_after_rdma_connect({})
      return [control, agreed]
    } catch (error) {
      await control.close()
      throw error
    }
  }
  const [outgoing, { pinAll }] = await open(connectTimeoutMs)
  if (wanted && !pinAll)
    context.log.warn('rdma: the destination does not pin all memory; it is registered chunk by chunk')
  let incoming: ControlConnection | undefined
  if (options.returnPath ?? true) {
    try {
      ;[incoming] = await open(returnPathTimeoutMs)
    } catch (error) {
      await outgoing.close(error as Error)
      throw new RdmaConnectError(address, `no return path: ${(error as Error).message}`, { cause: error })
    }
  }
  const sender = new RamSender(outgoing, { pinAll, unregister: options.unregister ?? false })
  return new RdmaChannel({ outgoing, incoming, ramHooks: { sender } })
}

async function listen(
  device: RdmaDevice,
  wanted: RdmaAddress,
  options: RdmaOptions,
  { signal, log }: TransportContext,
): Promise<Listener<RdmaAddress>> {
  const { returnPath = true, returnPathTimeoutMs = RETURN_PATH_TIMEOUT_MS } = options
  if (wanted.host === '') {
    log.warn(`rdma::${wanted.port} listens for this host only; to let others in, name an address (0.0.0.0 for all)`)
  }
  trace.rdma_start_incoming_migration({})
  trace.rdma_start_incoming_migration_after_dest_init({})
  const below = await device.connections.listen(wanted, { signal })
  trace.rdma_start_incoming_migration_after_rdma_listen({})
  const ready: Channel[] = []
  let wake = () => {}
  let closed = false
  /** Its return path has not come yet. */
  let half: { incoming: ControlConnection; pinAll: boolean; timer: ReturnType<typeof setTimeout> } | undefined

  const complete = (incoming: ControlConnection, pinAll: boolean, outgoing?: ControlConnection) => {
    const receiver = new RamReceiver(device, incoming, pinAll)
    ready.push(new RdmaChannel({ incoming, outgoing, ramHooks: { receiver } }))
    wake()
  }
  const accept = async (request: ConnectionRequest): Promise<void> => {
    let control: ControlConnection | undefined
    trace.qemu_rdma_accept_incoming_migration({})
    try {
      if (ready.length >= BACKLOG) throw new RdmaConnectError(undefined, 'nobody takes the connections that are there')
      const { pinAll } = readConnectionParameters(request.privateData)
      trace.qemu_rdma_accept_pin_state({ pin: pinAll })
      control = new ControlConnection(device)
      const connection = await request.accept({
        queuePair: control.queuePair,
        privateData: connectionParameters({ pinAll }),
        retryCount: RETRY_COUNT,
        receiverNotReadyRetryCount: RECEIVER_NOT_READY_RETRY_COUNT,
      })
      control.connected(connection)
      trace.qemu_rdma_accept_incoming_migration_accepted({})
      const first = half
      if (first) {
        if (first.incoming.remoteAddress !== connection.remoteAddress) {
          throw new RdmaConnectError(
            undefined,
            `${connection.remoteAddress} is not where the first connection came from`,
          )
        }
        half = undefined
        clearTimeout(first.timer)
        complete(first.incoming, first.pinAll, control)
      } else if (returnPath) {
        const incoming = control
        const timer = setTimeout(() => {
          half = undefined
          log.warn(`rdma: no return path within ${returnPathTimeoutMs} ms; the stream flows one way`)
          complete(incoming, pinAll)
        }, returnPathTimeoutMs)
        half = { incoming, pinAll, timer }
        void incoming.over.then(() => {
          if (half?.incoming !== incoming) return
          clearTimeout(timer)
          half = undefined
          void incoming.close()
        })
      } else complete(control, pinAll)
    } catch (error) {
      log.warn(`rdma: a connection was refused: ${(error as Error).message}`, { error })
      if (control?.established) await control.close(error as Error)
      else {
        request.reject()
        await control?.close()
      }
    }
  }
  const close = async (): Promise<void> => {
    if (closed) return
    closed = true
    signal.removeEventListener('abort', close)
    clearTimeout(half?.timer)
    const gone = new RdmaConnectError(undefined, 'the listener was closed')
    wake()
    await Promise.all([below.close(), half?.incoming.close(gone), ...ready.splice(0).map((c) => c.close(gone))])
  }
  signal.addEventListener('abort', close)
  void (async () => {
    for (let request = await below.next(); request; request = await below.next()) await accept(request)
  })()
  return {
    address: below.address,
    async *[Symbol.asyncIterator]() {
      while (!closed) {
        const channel = ready.shift()
        if (channel) yield channel
        else await new Promise<void>((resolve) => (wake = resolve))
      }
    },
    [Symbol.asyncDispose]: close,
  }
}
