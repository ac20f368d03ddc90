import type { Drive, DriveReplacement } from '@ferryvm/block/node'
import { createImage, openImage } from '@ferryvm/block/node'
import {
  type BlockBackend,
  type Channel,
  type ChannelLayer,
  type Listener,
  type Logger,
  silentLogger,
  type Transport,
} from '@ferryvm/core'
import { NbdDisk } from '@ferryvm/nbd'
import { MonitorCommandError } from '../errors.ts'

/** A disk of the machine. */
export interface StorageDrive {
  /** `-drive id=` */
  readonly device: string
  /** `node-name=` */
  readonly node: string
  readonly drive: Drive
}

export interface StorageOptions {
  readonly drives: readonly StorageDrive[]
  /** With the schemes `tcp` and `unix`. */
  readonly transports: readonly Transport<any>[]
  /** TLS by the names of objects. @throws there is none of that name */
  readonly layers?: (request: {
    readonly role: 'client' | 'server'
    readonly host: string | undefined
    readonly parameters: Readonly<Record<'tls-creds' | 'tls-hostname' | 'tls-authz', string>>
  }) => readonly ChannelLayer[]
  /** From where clients may come to our disks without TLS. Default `loopback`. */
  readonly plaintextFrom?: 'loopback' | 'anywhere'
  readonly log?: Logger
}

export type SocketAddress =
  | { readonly type: 'inet'; readonly host: string; readonly port: string }
  | { readonly type: 'unix'; readonly path: string }

export interface TlsNames {
  readonly creds?: string
  readonly hostname?: string
  readonly authz?: string
}

/** How a connection that is made on behalf of a command is waited for. */
const CONNECT_MS = 30_000

/** Something that a command can use as a disk. */
export interface BlockNode {
  /** Another one after the machine's disk went over to another node. */
  name: string
  readonly driver: string
  readonly backend: BlockBackend
  /** For people. */
  readonly path: string
  readonly inFile: boolean
  /** Of the machine: cannot be deleted. */
  readonly drive?: StorageDrive
  /** With a connection that can hang. */
  nbd?: NbdDisk
  /** Jobs and exports that need it. */
  users: number
}

export interface NbdNodeOptions {
  readonly server: SocketAddress
  readonly exportName: string
  readonly tls?: TlsNames
}

/** Disks by the names that commands have for them: those of the machine, and those that were added. */
export class BlockNodes {
  readonly options: StorageOptions
  readonly log: Logger
  readonly #added = new Map<string, BlockNode>()
  /** Names that are being opened. */
  readonly #reserved = new Set<string>()
  readonly #drives: readonly BlockNode[]
  #unnamed = 0

  constructor(options: StorageOptions) {
    this.options = options
    this.log = options.log ?? silentLogger
    this.#drives = options.drives.map((drive) => ({
      name: drive.node,
      get driver() {
        return drive.drive.format
      },
      get path() {
        return drive.drive.path
      },
      backend: drive.drive,
      inFile: true,
      drive,
      users: 0,
    }))
  }

  get all(): readonly BlockNode[] {
    return [...this.#drives, ...this.#added.values()]
  }

  /** By `-drive id=` or `node-name=`. @throws MonitorCommandError there is none */
  find(name: string): BlockNode {
    const found =
      this.#drives.find(({ drive }) => drive?.device === name) ?? this.all.find((node) => node.name === name)
    if (!found) throw new MonitorCommandError(`Cannot find device='${name}' nor node-name='${name}'`)
    return found
  }

  /** Of a drive. */
  nameOf(device: string): string | undefined {
    return this.#drives.find(({ drive }) => drive?.device === device)?.name
  }

  /** For a node that nobody has named. */
  unusedName(): string {
    return `block${this.#unnamed++}`
  }

  /** @throws MonitorCommandError there is no node of that name */
  byNodeName(name: string): BlockNode {
    const found = this.all.find((node) => node.name === name)
    if (!found) throw new MonitorCommandError(`Cannot find device='' nor node-name='${name}'`)
    return found
  }

  /** @throws MonitorCommandError, ImageError, NbdRefusedError, or what the connection fails with */
  async add(name: string, open: (name: string) => Promise<BlockNode>): Promise<void> {
    if (!/^[a-z][a-z0-9._-]*$/i.test(name)) throw new MonitorCommandError(`Invalid node-name: '${name}'`)
    if (this.all.some((node) => node.name === name) || this.#reserved.has(name))
      throw new MonitorCommandError(`Duplicate nodes with node-name='${name}'`)
    this.#reserved.add(name)
    try {
      this.#added.set(name, await open(name))
    } finally {
      this.#reserved.delete(name)
    }
  }

  /** @throws MonitorCommandError it is in use, or none that was added */
  async remove(name: string): Promise<void> {
    const node = this.#added.get(name)
    if (!node) {
      if (this.#drives.some((drive) => drive.name === name)) throw new MonitorCommandError(`Node ${name} is in use`)
      throw new MonitorCommandError(`Failed to find node with node-name='${name}'`)
    }
    if (node.users > 0) throw new MonitorCommandError(`Node ${name} is in use`)
    this.#added.delete(name)
    await node.backend.close?.()
  }

  /** A drive goes over to that node, whose name is the drive's from now on. */
  taken(node: BlockNode, source: BlockNode): DriveReplacement {
    this.#added.delete(node.name)
    source.name = node.name
    source.nbd = node.nbd
    return { backend: node.backend, path: node.path, format: node.driver, inFile: node.inFile }
  }

  /** @throws ImageError; a file that is there is overwritten */
  async create(path: string, format: string, size: number): Promise<void> {
    if (format !== 'raw' && format !== 'qcow2') throw new MonitorCommandError(`Unknown driver '${format}'`)
    await createImage(path, { format, size })
  }

  async openFile(name: string, path: string, { format = 'raw', readOnly = false } = {}): Promise<BlockNode> {
    const { backend } = await openImage(path, { format, readOnly })
    return { name, driver: format, backend, path, inFile: true, users: 0 }
  }

  async openNbd(name: string, { server, exportName, tls }: NbdNodeOptions): Promise<BlockNode> {
    const signal = AbortSignal.timeout(CONNECT_MS)
    const { transport, address } = this.#transport(server)
    const host = server.type === 'inet' ? server.host : undefined
    const layer = this.layer('client', host, tls)
    const channel: Channel = await transport.connect(address, { signal, log: this.log })
    const nbd = await NbdDisk.open(channel, { exportName, tls: layer, signal, log: this.log })
    return { name, driver: 'nbd', backend: nbd, path: nbdUri(server, exportName), inFile: false, nbd, users: 0 }
  }

  async listen(address: SocketAddress, signal: AbortSignal): Promise<Listener<unknown>> {
    const { transport, address: parsed } = this.#transport(address)
    return transport.listen(parsed, { signal, log: this.log })
  }

  /** @throws MonitorCommandError there is no TLS here, or what `layers` throws */
  layer(role: 'client' | 'server', host: string | undefined, tls: TlsNames = {}): ChannelLayer | undefined {
    const { creds = '', hostname = '', authz = '' } = tls
    if (creds === '' && authz === '') return undefined
    if (!this.options.layers) throw new MonitorCommandError('there is no TLS here')
    const parameters = { 'tls-creds': creds, 'tls-hostname': hostname, 'tls-authz': authz }
    return this.options.layers({ role, host, parameters })[0]
  }

  async close(): Promise<void> {
    for (const { backend } of this.#added.values()) await backend.close?.().catch(() => {})
    this.#added.clear()
  }

  #transport(address: SocketAddress): { transport: Transport<any>; address: unknown } {
    const [scheme, text] =
      address.type === 'unix'
        ? ['unix', address.path]
        : ['tcp', `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`]
    const transport = this.options.transports.find((t) => t.scheme === scheme)
    if (!transport) throw new MonitorCommandError(`there is no transport for ${scheme}: here`)
    return { transport, address: transport.parseAddress(text) }
  }
}

/** As QEMU writes where a disk is. */
function nbdUri(server: SocketAddress, exportName: string): string {
  const name = exportName === '' ? '' : `/${exportName}`
  return server.type === 'unix'
    ? `nbd+unix://${name}?socket=${server.path}`
    : `nbd://${server.host}:${server.port}${name}`
}

/** `nbd://host:port/name`, `nbd+unix:///name?socket=path`, or the older `nbd:host:port:exportname=name` and `nbd:unix:path:…`. @returns undefined: it is a file */
export function parseNbdTarget(text: string): NbdNodeOptions | undefined {
  const plain = /^nbd:(?:unix:([^:]+)|(\[[^\]]+\]|[^:]+):(\d+))(?::exportname=(.*))?$/s.exec(text)
  if (plain && !text.startsWith('nbd://')) {
    const [, path, host, port, exportName = ''] = plain
    const server: SocketAddress = path
      ? { type: 'unix', path }
      : { type: 'inet', host: host!.replace(/^\[|\]$/g, ''), port: port! }
    return { server, exportName }
  }
  if (!/^nbd(\+tcp|\+unix)?:\/\//.test(text)) return undefined
  let url: URL
  try {
    url = new URL(text)
  } catch (cause) {
    throw new MonitorCommandError(`"${text}" is no NBD address`, 'GenericError', { cause })
  }
  const exportName = decodeURIComponent(url.pathname.replace(/^\//, ''))
  if (url.protocol === 'nbd+unix:') {
    const path = url.searchParams.get('socket')
    if (!path) throw new MonitorCommandError(`"${text}": ?socket= is missing`)
    return { server: { type: 'unix', path }, exportName }
  }
  return { server: { type: 'inet', host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port || '10809' }, exportName }
}
