import { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'

/** Larger writes become several messages; larger messages are refused. */
export const MAX_MESSAGE_BYTES = 1 << 20
/** How long the other end may take to answer a close. */
const CLOSE_TIMEOUT_MS = 1000
/** A WebSocket cannot be closed in one direction, so an empty message says that this one has ended. */
const END = new Uint8Array()

/** A Node stream over the binary messages of a WebSocket, whose message boundaries mean nothing. */
export function toDuplex(socket: WebSocket): Duplex {
  let ended = false
  const duplex = new Duplex({
    allowHalfOpen: true,
    read: () => socket.resume(),
    write(chunk: Buffer, _encoding, done) {
      send(socket, chunk, done)
    },
    final: (done) => socket.send(END, done),
    destroy(error, done) {
      if (error) socket.terminate()
      else {
        socket.close()
        setTimeout(() => socket.terminate(), CLOSE_TIMEOUT_MS).unref()
      }
      done(error)
    },
  })
  socket.on('message', (data: Buffer, binary) => {
    if (!binary) duplex.destroy(new Error('the peer sent text: it is no ferryvm transport'))
    else if (data.length === 0) {
      ended = true
      duplex.push(null)
    } else if (!ended && !duplex.push(data)) socket.pause()
  })
  socket.on('error', (error) => duplex.destroy(error))
  // Whoever has ended its direction before may go.
  socket.on('close', () => duplex.destroy(ended ? undefined : new Error('the peer closed the connection')))
  return duplex
}

/** Calls `done` once all of it is out of our hands, which is the back-pressure. */
function send(socket: WebSocket, chunk: Buffer, done: (error?: Error | null) => void): void {
  let at = 0
  for (; chunk.length - at > MAX_MESSAGE_BYTES; at += MAX_MESSAGE_BYTES) {
    socket.send(chunk.subarray(at, at + MAX_MESSAGE_BYTES), { binary: true }, () => {})
  }
  socket.send(chunk.subarray(at), { binary: true }, done)
}
