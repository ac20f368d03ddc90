import { open } from 'node:fs/promises'
import { whenPagesArrive } from '@ferryvm/core'
import type { Snapshots } from '@ferryvm/migration'
import type { MonitorContext } from './context.ts'
import { MonitorCommandError } from './errors.ts'

/** What QMP and HMP both offer. */
export async function stop({ machine, migration }: MonitorContext): Promise<void> {
  if (machine.runState === 'inmigrate') migration.autostart = false
  else if (machine.runState === 'running') await machine.stop('paused')
}

export function cont({ machine, migration }: MonitorContext): void {
  switch (machine.runState) {
    case 'inmigrate':
      migration.autostart = true
      return
    case 'finish-migrate':
    case 'save-vm':
    case 'restore-vm':
      throw new MonitorCommandError('the migration is not finished yet')
    case 'shutdown':
    case 'internal-error':
    case 'guest-panicked':
      throw new MonitorCommandError('the machine must be reset before it can go on')
    default:
      machine.start()
  }
}

export async function migrateIncoming(
  context: MonitorContext,
  uri: string,
  { exitOnError = true, lazy = false }: { readonly exitOnError?: boolean; readonly lazy?: boolean } = {},
): Promise<void> {
  const { machine, migration } = context
  if (machine.runState !== 'inmigrate') {
    throw new MonitorCommandError('the machine was not started with "-incoming defer", or its guest is here already')
  }
  const { done } = await migration.incoming(uri, { lazy })
  done.catch((error: Error) => {
    if (exitOnError) context.incomingFailed(error)
  })
}

/** @throws MonitorCommandError */
export function forkOf({ fork }: MonitorContext): NonNullable<MonitorContext['fork']> {
  if (!fork) throw new MonitorCommandError('this machine cannot be forked from here')
  return fork
}

export function snapshotsOf({ snapshots }: MonitorContext): Snapshots {
  if (!snapshots) throw new MonitorCommandError('this machine has no disks that could keep snapshots')
  return snapshots
}

const CHUNK_BYTES = 64 * 1024

/** Guest-physical memory into a file. */
export async function pmemsave(
  { machine }: MonitorContext,
  address: number,
  size: number,
  path: string,
): Promise<void> {
  const file = await open(path, 'w').catch((cause: Error) => {
    throw new MonitorCommandError(`cannot write ${path}: ${cause.message}`, 'GenericError', { cause })
  })
  try {
    for (let at = 0; at < size; at += CHUNK_BYTES) {
      const chunk = new Uint8Array(Math.min(CHUNK_BYTES, size - at))
      await whenPagesArrive(() => machine.physical.demand(address + at, chunk.length))
      // What cannot be read shows as zeros, page by page.
      if (!machine.physical.read(address + at, chunk)) {
        chunk.fill(0)
        for (let page = 0; page < chunk.length; page += 4096) {
          const part = chunk.subarray(page, page + 4096)
          if (!machine.physical.read(address + at + page, part)) part.fill(0)
        }
      }
      await file.write(chunk)
    }
  } finally {
    await file.close()
  }
}
