import { connect } from 'node:net'
import type { CharBackend } from '@ferryvm/core'

/** The host's end of a serial line in a test. */
export class Wire implements CharBackend {
  text = ''
  #input: (bytes: Uint8Array) => void = () => {}

  write(bytes: Uint8Array): void {
    this.text += new TextDecoder().decode(bytes)
  }
  onInput(listener: (bytes: Uint8Array) => void): Disposable {
    this.#input = listener
    return { [Symbol.dispose]() {} }
  }
  type(text: string): void {
    this.#input(new TextEncoder().encode(text))
  }

  /** Of a machine whose line is a socket that it listens on. */
  static async connect(path: string): Promise<Wire> {
    const wire = new Wire()
    const socket = connect(path)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    socket.on('error', () => {})
    socket.on('data', (bytes) => wire.write(bytes))
    wire.onInput((bytes) => void socket.write(bytes))
    return wire
  }
}
