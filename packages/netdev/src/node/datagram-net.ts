/** QEMU's `dgram`, `socket,udp=` and `socket,mcast=`: a frame is a UDP datagram. */
import { createSocket, type Socket } from 'node:dgram'
import type { NetBackend } from '@ferryvm/core'
import type { DatagramAddress, SocketNet } from './address.ts'

export interface DatagramNetOptions {
  readonly local: DatagramAddress
  /** Where frames go. */
  readonly remote: DatagramAddress
  /** `remote` is a group; what is sent to it comes back to all of its members on this host, except to us. */
  readonly multicast?: boolean
}
/** Own frames that are recognized when the group brings them back. */
const OWN_FRAMES = 64

export class DatagramNet implements NetBackend, SocketNet {
  readonly #socket: Socket
  readonly #options: DatagramNetOptions
  #own: Buffer[] = []
  #listener: ((frame: Uint8Array) => void) | undefined

  private constructor(socket: Socket, options: DatagramNetOptions) {
    this.#socket = socket
    this.#options = options
    socket.on('message', (message) => {
      const mine = this.#own.findIndex((frame) => frame.equals(message))
      if (mine >= 0) this.#own.splice(mine, 1)
      else this.#listener?.(new Uint8Array(message))
    })
    socket.on('error', () => {}) // a port where nobody is yet
  }

  /** @throws Error of Node: the local address cannot be used */
  static async open(options: DatagramNetOptions): Promise<DatagramNet> {
    const { local, remote, multicast = false } = options
    const socket = createSocket({ type: 'udp4', reuseAddr: multicast })
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.bind(
        multicast ? { port: remote.port, address: remote.host } : { port: local.port, address: local.host },
        resolve,
      )
    })
    if (multicast) {
      socket.addMembership(remote.host, local.host)
      socket.setMulticastInterface(local.host)
      socket.setMulticastLoopback(true)
    }
    return new DatagramNet(socket, options)
  }

  get port(): number {
    return this.#socket.address().port
  }

  send(frame: Uint8Array): void {
    const { remote, multicast } = this.#options
    if (multicast) {
      this.#own.push(Buffer.from(frame))
      if (this.#own.length > OWN_FRAMES) this.#own.shift()
    }
    this.#socket.send(frame, remote.port, remote.host, () => {})
  }

  onReceive(listener: (frame: Uint8Array) => void): Disposable {
    this.#listener = listener
    return { [Symbol.dispose]: () => void (this.#listener = undefined) }
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()))
  }
}
