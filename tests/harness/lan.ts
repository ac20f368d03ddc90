import { NetHub } from '@ferryvm/netdev'
import { StreamNet } from '@ferryvm/netdev/node'

/** A network of sockets in this process, for machines of every kind: each has a port of its own to connect to. */
export class Lan implements AsyncDisposable {
  readonly #hub = new NetHub()
  readonly #servers: StreamNet[] = []

  /** TCP port of a new socket in the wall, in QEMU's framing. */
  async plug(): Promise<number> {
    const server = await StreamNet.open({ address: { host: '127.0.0.1', port: 0 }, server: true })
    this.#servers.push(server)
    this.#hub.attach(server)
    return server.port
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.close()
  }
}
