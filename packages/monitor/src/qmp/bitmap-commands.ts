import { createHash } from 'node:crypto'
import { type DirtyBitmap, DirtyBitmapError, type DirtyBitmaps } from '@ferryvm/core'
import { z } from 'zod'
import type { MonitorContext } from '../context.ts'
import { MonitorCommandError } from '../errors.ts'
import { command, type QmpCommand } from './define-command.ts'

const bitmapArguments = { node: z.string(), name: z.string() }
const MAX_U32 = 2 ** 32 - 1

/** QMP commands for bitmaps of what was written to a disk. */
export const bitmapCommands: readonly QmpCommand[] = [
  command(
    'block-dirty-bitmap-add',
    {
      ...bitmapArguments,
      granularity: z.int().nonnegative().max(MAX_U32).optional(),
      persistent: z.boolean().optional(),
      disabled: z.boolean().optional(),
    },
    (context, { node, name, granularity: granularityBytes, persistent = false, disabled = false }) => {
      const bitmaps = bitmapsOf(context, node)
      if (persistent)
        throw new MonitorCommandError(`Can't store persistent bitmaps to ${node}: bitmaps in images are not supported`)
      inWords(() => bitmaps.add(name, { granularityBytes, recording: !disabled }))
    },
  ),
  command('block-dirty-bitmap-remove', bitmapArguments, (context, args) => {
    bitmapsOf(context, args.node).remove(idleBitmap(context, args))
  }),
  command('block-dirty-bitmap-clear', bitmapArguments, (context, args) => {
    const { log } = idleBitmap(context, args)
    for (let chunk = log.next(0); chunk >= 0; chunk = log.next(chunk + 1)) log.clear(chunk)
  }),
  command('block-dirty-bitmap-enable', bitmapArguments, (context, args) => {
    idleBitmap(context, args).recording = true
  }),
  command('block-dirty-bitmap-disable', bitmapArguments, (context, args) => {
    idleBitmap(context, args).recording = false
  }),
  command(
    'block-dirty-bitmap-merge',
    {
      node: z.string(),
      target: z.string(),
      bitmaps: z.array(z.union([z.string(), z.strictObject(bitmapArguments)])),
    },
    (context, { node, target: name, bitmaps }) => {
      const target = idleBitmap(context, { node, name })
      // All are looked for before the first mark.
      const sources = bitmaps.map((from) => idleBitmap(context, typeof from === 'string' ? { node, name: from } : from))
      inWords(() => bitmapsOf(context, node).merge(target, sources))
    },
  ),
  command('x-debug-block-dirty-bitmap-sha256', bitmapArguments, (context, args) => ({
    sha256: createHash('sha256').update(bitmapOf(context, args).log.bits).digest('hex'),
  })),
]

/** The list in `query-block` and `query-named-block-nodes`. Member names are the protocol's. */
export interface DirtyBitmapInfo {
  readonly name: string
  /** Of what is marked, bytes. */
  readonly count: number
  readonly granularity: number
  readonly recording: boolean
  readonly busy: boolean
  readonly persistent: boolean
}

/** Empty where the disk has none, as the member is absent then. */
export function dirtyBitmapsInfo(bitmaps: DirtyBitmaps | undefined): { 'dirty-bitmaps'?: DirtyBitmapInfo[] } {
  if (!bitmaps || bitmaps.all.length === 0) return {}
  return {
    'dirty-bitmaps': bitmaps.all.map(({ name, log, recording, busy }) => ({
      name,
      count: log.count * log.granularityBytes,
      granularity: log.granularityBytes,
      recording,
      busy,
      persistent: false,
    })),
  }
}

/** @throws MonitorCommandError for what is wrong with a bitmap */
function inWords(run: () => unknown): void {
  try {
    run()
  } catch (cause) {
    if (!(cause instanceof DirtyBitmapError)) throw cause
    throw new MonitorCommandError(cause.message, 'GenericError', { cause })
  }
}

/** @throws MonitorCommandError */
function bitmapsOf({ storage }: MonitorContext, node: string): DirtyBitmaps {
  if (!storage) throw new MonitorCommandError('this machine has no disks that commands could work with')
  const { bitmaps } = storage.nodes.find(node).backend
  if (!bitmaps)
    throw new MonitorCommandError(`Node '${node}' does not keep track of what is written; only disks of the machine do`)
  return bitmaps
}

/** @throws MonitorCommandError */
function bitmapOf(context: MonitorContext, { node, name }: { node: string; name: string }): DirtyBitmap {
  const found = bitmapsOf(context, node).find(name)
  if (!found) throw new MonitorCommandError(`Dirty bitmap '${name}' not found`)
  return found
}

/** @throws MonitorCommandError */
function idleBitmap(context: MonitorContext, args: { node: string; name: string }): DirtyBitmap {
  const found = bitmapOf(context, args)
  if (found.busy)
    throw new MonitorCommandError(`Bitmap '${args.name}' is currently in use by another operation and cannot be used`)
  return found
}
