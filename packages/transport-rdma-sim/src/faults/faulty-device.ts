import { VerbsQueueFullError, VerbsResourceError } from '../verbs/errors.ts'
import type {
  CompletionQueue,
  CompletionStatus,
  Connection,
  ConnectionManager,
  ConnectOptions,
  ProtectionDomain,
  QueuePair,
  RdmaDevice,
  WorkCompletion,
} from '../verbs/verbs.ts'

/** What can go wrong below a program that uses verbs. It happens at the next verb that it can happen to. */
export type VerbsFault =
  /** The host refuses to pin the memory. */
  | { readonly kind: 'registration' }
  /** A send finds its queue full. */
  | { readonly kind: 'post' }
  /** Work completes with that status, and its queue pair breaks. */
  | { readonly kind: 'completion'; readonly status: Exclude<CompletionStatus, 'success'> }
  /** A queue pair breaks by itself. */
  | { readonly kind: 'queue-pair' }
  /** The connection manager says goodbye. */
  | { readonly kind: 'disconnect' }
  /** Nothing completes for so long. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** A receive is posted so much later. */
  | { readonly kind: 'late-receive'; readonly ms: number }

export interface FaultyDevice extends RdmaDevice {
  /** Verbs so far: registrations, posts, and completions that were polled. */
  readonly steps: number
  readonly fired: boolean
}

/** Stands between a program and its device, and lets one thing go wrong from verb number `step` on, counted from 0. */
export function faultyDevice(device: RdmaDevice, step: number, fault: VerbsFault): FaultyDevice {
  let steps = 0
  let fired = false
  let heldUntil = 0
  const inner = new WeakMap<object, any>()
  const connections = new Set<Connection>()
  /** Counts a verb. @returns true: now, and only now */
  const due = (...kinds: VerbsFault['kind'][]): boolean => {
    const now = steps++ >= step && !fired && kinds.includes(fault.kind)
    if (now) fired = true
    return now
  }

  const domainOf = (real: ProtectionDomain): ProtectionDomain => {
    const domain: ProtectionDomain = {
      registerMemory(bytes, access) {
        if (due('registration')) throw new VerbsResourceError('the host refused to pin the memory (injected)')
        return real.registerMemory(bytes, access)
      },
      deallocate: () => real.deallocate(),
    }
    inner.set(domain, real)
    return domain
  }

  const queuePairs = new Map<number, QueuePair>()
  const queueOf = (real: CompletionQueue): CompletionQueue => {
    const spoil = (completion: WorkCompletion): WorkCompletion => {
      const kind = due('completion', 'delay') ? fault.kind : undefined
      if (kind === 'delay') heldUntil = performance.now() + (fault as { ms: number }).ms
      if (kind !== 'completion') return completion
      queuePairs.get(completion.queuePair)?.modify('error')
      return { ...completion, status: (fault as { status: CompletionStatus }).status }
    }
    const queue: CompletionQueue = {
      depth: real.depth,
      poll: (max) => (performance.now() < heldUntil ? [] : real.poll(max).map(spoil)),
      async wait() {
        const left = heldUntil - performance.now()
        if (left > 0) await new Promise((resolve) => setTimeout(resolve, left))
        await real.wait()
      },
      destroy: () => real.destroy(),
    }
    inner.set(queue, real)
    return queue
  }

  const queuePairOf = (real: QueuePair): QueuePair => {
    const queuePair: QueuePair = {
      number: real.number,
      get state() {
        return real.state
      },
      modify: (state) => real.modify(state),
      postSend(work) {
        if (due('post', 'queue-pair', 'disconnect')) {
          if (fault.kind === 'post') throw new VerbsQueueFullError('send', 0)
          if (fault.kind === 'queue-pair') real.modify('error')
          else for (const connection of connections) void connection.disconnect()
        }
        real.postSend(work)
      },
      postReceive(work) {
        if (due('late-receive')) {
          setTimeout(() => real.postReceive(work), (fault as { ms: number }).ms)
        } else real.postReceive(work)
      },
      destroy() {
        queuePairs.delete(real.number)
        real.destroy()
      },
    }
    inner.set(queuePair, real)
    queuePairs.set(real.number, real)
    return queuePair
  }

  const real = <O extends ConnectOptions>(options: O): O => ({ ...options, queuePair: inner.get(options.queuePair) })
  const known = (connection: Connection): Connection => {
    connections.add(connection)
    void connection.disconnected.then(() => connections.delete(connection))
    return connection
  }
  const manager: ConnectionManager = {
    connect: async (address, options) => known(await device.connections.connect(address, real(options))),
    async listen(address, options) {
      const listener = await device.connections.listen(address, options)
      return {
        address: listener.address,
        async next() {
          const request = await listener.next()
          return (
            request && {
              privateData: request.privateData,
              accept: async (accepting) => known(await request.accept(real(accepting))),
              reject: (data) => request.reject(data),
            }
          )
        },
        close: () => listener.close(),
      }
    },
  }

  return {
    name: `${device.name} (faulty)`,
    limits: device.limits,
    connections: manager,
    addressOf: (bytes) => device.addressOf(bytes),
    allocateProtectionDomain: () => domainOf(device.allocateProtectionDomain()),
    createCompletionQueue: (depth) => queueOf(device.createCompletionQueue(depth)),
    createQueuePair: (init) =>
      queuePairOf(
        device.createQueuePair({
          ...init,
          domain: inner.get(init.domain),
          sendCompletions: inner.get(init.sendCompletions),
          receiveCompletions: inner.get(init.receiveCompletions),
        }),
      ),
    onAsyncEvent: (listener) => device.onAsyncEvent(listener),
    close: () => device.close(),
    get steps() {
      return steps
    },
    get fired() {
      return fired
    },
  }
}
