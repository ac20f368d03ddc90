/** Gives a fork to a twin in another process: as a file on a server of this host, which only the twin knows. */
import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { ForkPoint } from '@ferryvm/migration'

/** A twin that asks for nothing for so long is not there any more. */
const SILENCE_MS = 60_000
const MAX_ANSWER_BYTES = 16 * 2 ** 20
const WATCH_MS = 200

export interface ForkServer {
  /** What the twin is to come from. */
  readonly uri: string
  /** Settles when the twin has everything, or is gone. */
  readonly ended: Promise<void>
}

export async function serveFork(point: ForkPoint): Promise<ForkServer> {
  const path = `/${randomBytes(16).toString('hex')}`
  let lastMs = performance.now()
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
    if (request.url !== path || !range) return void response.writeHead(404).end()
    const [from, last] = [Number(range[1]), Number(range[2])]
    const into = new Uint8Array(Math.min(MAX_ANSWER_BYTES, Math.max(0, last + 1 - from)))
    const count = await point.readAt(into, from)
    lastMs = performance.now()
    if (count === 0) return void response.writeHead(416, { 'content-range': `bytes */${point.sizeBytes}` }).end()
    response.once('finish', () => point.release(from, count))
    response.writeHead(206, {
      'content-range': `bytes ${from}-${from + count - 1}/${point.sizeBytes}`,
      'content-length': count,
    })
    response.end(into.subarray(0, count))
  }
  // An import would be loaded with every machine, and as much again that hangs from it.
  const server = process.getBuiltinModule('node:http').createServer((request, response) => {
    answer(request, response).catch((error: Error) => void response.writeHead(410, error.message).end())
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve))
  const { promise: ended, resolve } = Promise.withResolvers<void>()
  const timer = setInterval(() => {
    if (point.remainingPages > 0 && performance.now() - lastMs < SILENCE_MS) return
    clearInterval(timer)
    point[Symbol.dispose]()
    server.close()
    resolve()
  }, WATCH_MS)
  return { uri: `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`, ended }
}
