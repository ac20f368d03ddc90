import type { NetBackend } from '@ferryvm/core'

/** Every frame that one port sends comes out of all others. `hubport` in QEMU. */
export class NetHub {
  readonly #ports = new Set<Port>()

  /** A place for a network card. */
  port(): NetBackend {
    const port = new Port((frame) => this.#spread(frame, port))
    this.#ports.add(port)
    return port
  }

  /** Plugs another network in: what it delivers goes to all ports. */
  attach(network: NetBackend): Disposable {
    const port = this.port() as Port
    port.onReceive((frame) => void network.send(frame))
    const listener = network.onReceive((frame) => port.send(frame))
    return {
      [Symbol.dispose]: () => {
        listener[Symbol.dispose]()
        this.#ports.delete(port)
      },
    }
  }

  #spread(frame: Uint8Array, from: Port): void {
    for (const port of this.#ports) if (port !== from) port.deliver(frame.slice())
  }
}

class Port implements NetBackend {
  readonly #spread: (frame: Uint8Array) => void
  #listener: ((frame: Uint8Array) => void) | undefined

  constructor(spread: (frame: Uint8Array) => void) {
    this.#spread = spread
  }
  send(frame: Uint8Array): void {
    this.#spread(frame)
  }
  onReceive(listener: (frame: Uint8Array) => void): Disposable {
    this.#listener = listener
    return { [Symbol.dispose]: () => void (this.#listener = undefined) }
  }
  deliver(frame: Uint8Array): void {
    this.#listener?.(frame)
  }
}
