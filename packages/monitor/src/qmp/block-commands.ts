import { z } from 'zod'
import type { MonitorContext } from '../context.ts'
import { MonitorCommandError } from '../errors.ts'
import { type BlockNode, parseNbdTarget, type SocketAddress } from '../storage/block-nodes.ts'
import { refuseSecondWriter, type Storage } from '../storage/storage.ts'
import { dirtyBitmapsInfo } from './bitmap-commands.ts'
import { command, type QmpCommand } from './define-command.ts'

const socketAddress = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal('inet'), host: z.string(), port: z.string() }),
  z.strictObject({ type: z.literal('unix'), path: z.string() }),
])
/** As `nbd-server-start` has it: what says more is in `data`. */
const legacyAddress = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('inet'), data: z.looseObject({ host: z.string(), port: z.string() }) }),
  z.strictObject({ type: z.literal('unix'), data: z.strictObject({ path: z.string() }) }),
])
const size = z.int().nonnegative()
const policy = z.enum(['report', 'ignore', 'enospc', 'stop', 'auto'])

const mirrorArguments = {
  'job-id': z.string().optional(),
  device: z.string(),
  sync: z.enum(['top', 'full', 'none', 'incremental', 'bitmap']),
  speed: size.optional(),
  granularity: size.optional(),
  'buf-size': size.optional(),
  'on-source-error': policy.optional(),
  'on-target-error': policy.optional(),
  'copy-mode': z.enum(['background', 'write-blocking']).optional(),
  'auto-finalize': z.boolean().optional(),
  'auto-dismiss': z.boolean().optional(),
}

/** QMP commands for disks that are copied or served while the guest runs. */
export const blockCommands: readonly QmpCommand[] = [
  {
    name: 'blockdev-add',
    // What else there is depends on the driver.
    args: z.looseObject({ driver: z.string(), 'node-name': z.string().optional() }),
    run: (context, args) => addNode(storageOf(context), args),
  },
  command('blockdev-del', { 'node-name': z.string() }, (context, args) =>
    storageOf(context).nodes.remove(args['node-name']),
  ),
  command('query-named-block-nodes', { flat: z.boolean().optional() }, (context) =>
    (context.storage?.nodes.all ?? []).map(({ name, driver, path, backend }) => ({
      'node-name': name,
      drv: driver,
      file: path,
      ro: backend.readOnly,
      encrypted: false,
      ...dirtyBitmapsInfo(backend.bitmaps),
      image: { filename: path, format: driver, 'virtual-size': backend.capacityBytes },
    })),
  ),

  command(
    'nbd-server-start',
    {
      addr: legacyAddress,
      'tls-creds': z.string().optional(),
      'tls-authz': z.string().optional(),
      'max-connections': size.optional(),
      'handshake-max-seconds': size.optional(),
    },
    (context, { addr, ...args }) => {
      const address = { type: addr.type, ...addr.data } as SocketAddress
      const options = { creds: args['tls-creds'], authz: args['tls-authz'], maxConnections: args['max-connections'] }
      return storageOf(context).exports.start(address, options)
    },
  ),
  command(
    'nbd-server-add',
    {
      device: z.string(),
      name: z.string().optional(),
      description: z.string().optional(),
      writable: z.boolean().optional(),
    },
    (context, { device, name = device, description, writable }) => {
      const { exports, nodes } = storageOf(context)
      exports.checkRunning()
      const node = nodes.find(device)
      // What cannot be written to is not, without a word.
      const options = { name, description, writable: writable === true && !node.backend.readOnly }
      refuseSecondWriter(context.machine, node, options.writable)
      return exports.add(name, node, options)
    },
  ),
  command(
    'nbd-server-remove',
    { name: z.string(), mode: z.enum(['safe', 'hard']).optional() },
    (context, { name, mode }) => storageOf(context).exports.remove(name, mode === 'hard'),
  ),
  command('nbd-server-stop', {}, (context) => storageOf(context).exports.stop()),
  command(
    'block-export-add',
    {
      type: z.enum(['nbd']),
      id: z.string(),
      'node-name': z.string(),
      name: z.string().optional(),
      description: z.string().optional(),
      writable: z.boolean().optional(),
      writethrough: z.boolean().optional(),
      'allow-inactive': z.boolean().optional(),
    },
    (context, { id, 'node-name': nodeName, name, description, writable }) => {
      const { exports, nodes } = storageOf(context)
      const node = nodes.byNodeName(nodeName)
      refuseSecondWriter(context.machine, node, writable)
      return exports.add(id, node, { name, description, writable })
    },
  ),
  command('block-export-del', { id: z.string(), mode: z.enum(['safe', 'hard']).optional() }, (context, { id, mode }) =>
    storageOf(context).exports.remove(id, mode === 'hard'),
  ),
  command('query-block-exports', {}, ({ storage }) => storage?.exports.list() ?? []),

  command(
    'blockdev-mirror',
    { ...mirrorArguments, target: z.string(), 'filter-node-name': z.string().optional() },
    (context, { target, ...args }) => {
      const { nodes } = storageOf(context)
      mirror(context, nodes.find(args.device), nodes.find(target), args)
    },
  ),
  command(
    'drive-mirror',
    {
      ...mirrorArguments,
      target: z.string(),
      format: z.string().optional(),
      'node-name': z.string().optional(),
      mode: z.enum(['existing', 'absolute-paths']).optional(),
      unmap: z.boolean().optional(),
    },
    driveMirror,
  ),
  command('query-block-jobs', {}, ({ storage }) => storage?.mirrors.list() ?? []),
  command('block-job-set-speed', { device: z.string(), speed: size }, (context, { device, speed }) =>
    storageOf(context).mirrors.setSpeed(device, speed),
  ),
  command('block-job-cancel', { device: z.string(), force: z.boolean().optional() }, (context, { device, force }) =>
    storageOf(context).mirrors.cancel(device, force ?? false),
  ),
  command('block-job-pause', { device: z.string() }, (context, { device }) =>
    storageOf(context).mirrors.jobOf(device).pause(),
  ),
  command('block-job-resume', { device: z.string() }, (context, { device }) =>
    storageOf(context).mirrors.jobOf(device).resume(),
  ),
  command('block-job-complete', { device: z.string() }, (context, { device }) =>
    storageOf(context).mirrors.complete(device),
  ),
  command('block-job-finalize', { id: z.string() }, (context, { id }) =>
    storageOf(context).mirrors.jobOf(id).finalize(),
  ),
  command('block-job-dismiss', { id: z.string() }, (context, { id }) => {
    storageOf(context).mirrors.jobOf(id)
    context.jobs.dismiss(id)
  }),
]

/** @throws MonitorCommandError */
function storageOf({ storage }: MonitorContext): Storage {
  if (!storage) throw new MonitorCommandError('this machine has no disks that commands could work with')
  return storage
}

type MirrorArguments = z.infer<z.ZodObject<typeof mirrorArguments>>

/** @throws MonitorCommandError what was asked for is not supported */
function checkMirror(args: MirrorArguments): void {
  const refuse = (name: string, value: string) => {
    throw new MonitorCommandError(`Parameter '${name}' does not accept value '${value}' here`)
  }
  if (args.sync === 'incremental' || args.sync === 'bitmap') refuse('sync', args.sync)
  if (args['copy-mode'] === 'write-blocking') refuse('copy-mode', args['copy-mode'])
  for (const name of ['on-source-error', 'on-target-error'] as const) {
    const value = args[name]
    if (value !== undefined && value !== 'report') refuse(name, value)
  }
}

function mirror(
  { storage }: MonitorContext,
  source: BlockNode,
  target: BlockNode,
  args: MirrorArguments,
  release?: () => Promise<void>,
): void {
  checkMirror(args)
  const options = {
    id: args['job-id'],
    sync: args.sync as 'full' | 'top' | 'none',
    speed: args.speed,
    granularity: args.granularity,
    autoFinalize: args['auto-finalize'],
    autoDismiss: args['auto-dismiss'],
  }
  storage!.mirrors.start(source, target, options, release)
}

/** The target is opened for the job alone. */
async function driveMirror(
  context: MonitorContext,
  args: MirrorArguments & { target: string; format?: string; 'node-name'?: string; mode?: string },
): Promise<void> {
  const { nodes } = storageOf(context)
  const source = nodes.find(args.device)
  checkMirror(args)
  const { mode = 'absolute-paths', target, format = source.driver, 'node-name': name = nodes.unusedName() } = args
  const nbd = parseNbdTarget(target)
  if (nbd && mode !== 'existing') throw new MonitorCommandError(`"${target}" cannot be made; use mode=existing`)
  // In an export are the bytes of the disk.
  if (nbd && format !== 'raw') throw new MonitorCommandError(`format=${format} over NBD is not supported; use raw`)
  await nodes.add(name, async () => {
    if (nbd) return nodes.openNbd(name, nbd)
    if (mode === 'absolute-paths') await nodes.create(target, format, source.backend.capacityBytes)
    return nodes.openFile(name, target, { format })
  })
  const release = () => nodes.remove(name)
  try {
    mirror(context, source, nodes.byNodeName(name), args, release)
  } catch (error) {
    await release()
    throw error
  }
}

const nbdDriver = z.strictObject({
  driver: z.literal('nbd'),
  'node-name': z.string().optional(),
  server: socketAddress,
  export: z.string().optional(),
  'tls-creds': z.string().optional(),
  'tls-hostname': z.string().optional(),
  'read-only': z.boolean().optional(),
  'reconnect-delay': size.optional(),
  'open-timeout': size.optional(),
})
const fileDriver = z.looseObject({
  driver: z.enum(['file', 'raw', 'qcow2']),
  'node-name': z.string().optional(),
  filename: z.string().optional(),
  file: z.looseObject({ driver: z.string().optional(), filename: z.string().optional() }).optional(),
  'read-only': z.boolean().optional(),
})

function addNode({ nodes }: Storage, args: Record<string, unknown>): Promise<void> {
  const name = args['node-name']
  if (typeof name !== 'string') throw new MonitorCommandError("'node-name' must be specified for the root node")
  const read = <T>(schema: z.ZodType<T>, value: unknown): T => {
    const result = schema.safeParse(value)
    if (result.success) return result.data
    const { path, message } = result.error.issues[0]!
    throw new MonitorCommandError(`Parameter '${path.join('.')}': ${message}`)
  }
  const openNbd = (value: unknown) => {
    const { server, export: exportName = '', ...rest } = read(nbdDriver, value)
    const tls = { creds: rest['tls-creds'], hostname: rest['tls-hostname'] }
    return nodes.openNbd(name, { server: server as SocketAddress, exportName, tls })
  }
  if (args.driver === 'nbd') return nodes.add(name, () => openNbd(args))
  const { driver, filename, file, 'read-only': readOnly } = read(fileDriver, args)
  // The bytes of an export, under another name.
  if (driver === 'raw' && file?.driver === 'nbd') return nodes.add(name, () => openNbd(file))
  const path = driver === 'file' ? filename : file?.filename
  if (path === undefined)
    throw new MonitorCommandError(`Parameter '${driver === 'file' ? 'filename' : 'file.filename'}' is missing`)
  return nodes.add(name, () => nodes.openFile(name, path, { format: driver === 'file' ? 'raw' : driver, readOnly }))
}
