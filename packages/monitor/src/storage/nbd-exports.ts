import { NbdServer } from '@ferryvm/nbd'
import { MonitorCommandError } from '../errors.ts'
import type { BlockNode, BlockNodes, SocketAddress } from './block-nodes.ts'

export interface BlockExportInfo {
  readonly id: string
  readonly type: 'nbd'
  readonly 'node-name': string
  readonly 'shutting-down': boolean
}

export interface NbdExportOptions {
  /** Default: that of the node. */
  readonly name?: string
  readonly description?: string
  readonly writable?: boolean
}

interface Export {
  readonly id: string
  readonly name: string
  readonly node: BlockNode
  readonly writable: boolean
  shuttingDown: boolean
}

/** The NBD server of one machine, and what it exports. */
export class NbdExports {
  readonly #nodes: BlockNodes
  readonly #deleted: (facts: { id: string }) => void
  readonly #exports = new Map<string, Export>()
  #server: NbdServer | undefined
  #listening: AbortController | undefined

  constructor(nodes: BlockNodes, deleted: (facts: { id: string }) => void) {
    this.#nodes = nodes
    this.#deleted = deleted
  }

  /** Latest first. */
  list(): BlockExportInfo[] {
    return [...this.#exports.values()].reverse().map(({ id, node, shuttingDown }) => ({
      id,
      type: 'nbd',
      'node-name': node.name,
      'shutting-down': shuttingDown,
    }))
  }

  /** @throws MonitorCommandError one runs already, or what the transport throws */
  async start(
    address: SocketAddress,
    { creds, authz, maxConnections = 100 }: { creds?: string; authz?: string; maxConnections?: number } = {},
  ): Promise<void> {
    if (this.#server) throw new MonitorCommandError('NBD server already running')
    const { log, options } = this.#nodes
    const tls = this.#nodes.layer('server', undefined, { creds, authz })
    const server = new NbdServer({ log, tls, maxConnections, plaintextFrom: options.plaintextFrom })
    this.#server = server
    const listening = new AbortController()
    this.#listening = listening
    try {
      const listener = await this.#nodes.listen(address, listening.signal)
      void server
        .accept(listener)
        .catch((error: Error) => log.warn(`the NBD server does not listen any more: ${error.message}`))
    } catch (error) {
      this.#server = undefined
      throw error
    }
  }

  /** @throws MonitorCommandError none runs */
  async stop(): Promise<void> {
    const server = this.#running()
    this.#server = undefined
    for (const one of this.#exports.values()) one.shuttingDown = true
    await server.close()
    this.#listening?.abort()
    for (const { id } of this.list()) this.#gone(id)
  }

  /**
   * A disk that waits for its guest becomes this machine's, so that a sender can fill it.
   * @throws MonitorCommandError, or what the disk throws when it is taken over
   */
  async add(
    id: string,
    node: BlockNode,
    { name = node.name, description, writable = false }: NbdExportOptions,
  ): Promise<void> {
    const server = this.#running()
    if (this.#exports.has(id)) throw new MonitorCommandError(`Block export id '${id}' is already in use`)
    if (server.exports.some((e) => e.name === name))
      throw new MonitorCommandError(`NBD server already has export named '${name}'`)
    if (writable && node.backend.readOnly) throw new MonitorCommandError('Cannot export read-only node as writable')
    const added: Export = { id, name, node, writable, shuttingDown: false }
    this.#exports.set(id, added)
    node.users++
    try {
      if (writable) await node.backend.activate?.()
      server.add({ name, description, backend: node.backend, writable })
    } catch (error) {
      this.#exports.delete(id)
      node.users--
      throw error
    }
  }

  /** @param hard also while clients use it @throws MonitorCommandError there is none, or it is in use */
  async remove(id: string, hard: boolean): Promise<void> {
    const found = this.#exports.get(id)
    if (!found) throw new MonitorCommandError(`Export '${id}' is not found`)
    if (!hard && this.#server && this.#server.connections(found.name) > 0)
      throw new MonitorCommandError(`export '${id}' still in use`)
    found.shuttingDown = true
    await this.#server?.remove(found.name)
    this.#gone(id)
  }

  /** The guest runs: nobody else writes to its disks any more. */
  async takeBack(): Promise<void> {
    for (const { id, node, writable } of [...this.#exports.values()]) {
      if (!writable || !node.drive) continue
      this.#nodes.log.warn(`the export ${id} is closed, because the guest uses that disk now`)
      await this.remove(id, true).catch((error: Error) => this.#nodes.log.warn(error.message))
    }
  }

  #gone(id: string): void {
    const found = this.#exports.get(id)
    if (!found) return
    this.#exports.delete(id)
    found.node.users--
    this.#deleted({ id })
  }

  /** @throws MonitorCommandError no server runs */
  checkRunning(): void {
    this.#running()
  }

  #running(): NbdServer {
    if (!this.#server) throw new MonitorCommandError('NBD server not running')
    return this.#server
  }

  async close(): Promise<void> {
    if (this.#server) await this.stop()
  }
}
