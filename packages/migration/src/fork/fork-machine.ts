import type { Machine, Transport } from '@ferryvm/core'
import type { IncomingOptions, Migration } from '../migration.ts'
import { type ForkOptions, type ForkPoint, forkTransport } from './fork-point.ts'

export interface Twin {
  readonly machine: Machine
  /** With the transport that it was given among its transports. */
  readonly migration: Migration
}

export interface ForkMachineOptions extends ForkOptions, Pick<IncomingOptions, 'autostart'> {
  /** All of the memory comes to the twin, in the background. Default false: what it touches, and what the parent writes is kept. */
  readonly prefetch?: boolean
}

export interface Fork<T extends Twin> {
  readonly twin: T
  readonly point: ForkPoint
  /** Settles when the twin has all of its memory, or is given up. */
  readonly done: Promise<void>
}

/**
 * A copy-on-write twin of a machine, which runs or stands, in the same process. Both go on from the same instruction.
 *
 * @param create makes the machine that becomes the twin: the same board with ends of its own (disks, serial line), and a migration
 *   with the given transport
 * @throws ForkError, or what `create` or a device throws; the parent goes on
 */
export async function forkMachine<T extends Twin>(
  parent: Pick<Migration, 'fork'>,
  create: (transport: Transport<string>) => Promise<T>,
  { prefetch = false, autostart, ...options }: ForkMachineOptions = {},
): Promise<Fork<T>> {
  const point = await parent.fork(options)
  try {
    const twin = await create(forkTransport(point))
    const { done } = await twin.migration.incoming('fork:', { autostart, lazy: { prefetch }, newIdentity: true })
    return { twin, point, done }
  } catch (error) {
    point[Symbol.dispose]()
    throw error
  }
}
