import { VerbsResourceError } from '../verbs/errors.ts'
import type { AsyncEvent, DeviceLimits, QueuePairInit, RdmaDevice } from '../verbs/verbs.ts'
import { SoftwareCompletionQueue } from './completion-queue.ts'
import { type ConnectionTimes, SoftwareConnectionManager } from './connection-manager.ts'
import type { Fabric } from './link.ts'
import { AddressSpace, SoftwareProtectionDomain } from './memory-regions.ts'
import { SoftwareQueuePair, type SoftwareQueuePairInit } from './queue-pair.ts'

export interface SoftwareDeviceOptions extends Partial<ConnectionTimes> {
  readonly name?: string
  readonly limits?: Partial<DeviceLimits>
}

const LIMITS: DeviceLimits = {
  maxQueuePairWork: 16_384,
  maxCompletions: 65_536,
  maxScatterGather: 16,
  maxMemoryRegions: 1 << 20,
}
const TIMES: ConnectionTimes = {
  keepAliveMs: 5000,
  silenceMs: 20_000,
  requestMs: 10_000,
  acknowledgeTimeoutMs: 2000,
  receiverNotReadyMs: 10,
}

export interface SoftwareDevice extends RdmaDevice {
  /** As when it is pulled out of a running host. */
  remove(): void
}

/** An adapter in software: the verbs and their rules, over the links of a fabric. */
export function softwareDevice(fabric: Fabric, options: SoftwareDeviceOptions = {}): SoftwareDevice {
  const limits = { ...LIMITS, ...options.limits }
  const addresses = new AddressSpace()
  const budget = { regions: limits.maxMemoryRegions }
  const listeners = new Set<(event: AsyncEvent) => void>()
  const queuePairs = new Set<SoftwareQueuePair>()
  const connections = new SoftwareConnectionManager(fabric, { ...TIMES, ...options })
  let nextNumber = 0x11
  let removed = false
  const emit = (event: AsyncEvent) => {
    for (const listener of [...listeners]) listener(event)
  }
  const check = (wanted: number, most: number, what: string) => {
    if (removed) throw new VerbsResourceError('the device was removed')
    if (wanted > most) throw new VerbsResourceError(`${wanted} ${what}; the device has ${most}`)
  }
  const closeAll = (reason: 'device' | 'local') => {
    removed = true
    connections.removeAll(reason)
    for (const queuePair of [...queuePairs]) queuePair.destroy()
  }

  return {
    name: options.name ?? `ferry-${fabric.name}`,
    limits,
    connections,
    addressOf: (bytes) => addresses.addressOf(bytes),
    allocateProtectionDomain: () => new SoftwareProtectionDomain(addresses, budget),
    createCompletionQueue(depth) {
      check(depth, limits.maxCompletions, 'completions')
      const queue: SoftwareCompletionQueue = new SoftwareCompletionQueue(depth, () => {
        emit({ kind: 'completion-queue-overrun' })
        for (const queuePair of [...queuePairs]) if (queuePair.uses(queue)) queuePair.modify('error')
      })
      return queue
    },
    createQueuePair(init: QueuePairInit) {
      check(Math.max(init.maxSendWork, init.maxReceiveWork), limits.maxQueuePairWork, 'work requests')
      const queuePair = new SoftwareQueuePair(nextNumber++, init as SoftwareQueuePairInit, {
        accessError: (broken) => emit({ kind: 'queue-pair-access-error', queuePair: broken }),
        destroyed: (gone) => void queuePairs.delete(gone),
      })
      queuePairs.add(queuePair)
      return queuePair
    },
    onAsyncEvent(listener) {
      listeners.add(listener)
      return { [Symbol.dispose]: () => void listeners.delete(listener) }
    },
    remove() {
      if (removed) return
      closeAll('device')
      emit({ kind: 'device-fatal' })
    },
    close: () => closeAll('local'),
  }
}
