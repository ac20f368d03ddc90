import { createReadStream, statSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface RangeServer extends AsyncDisposable {
  readonly url: string
  /** Requests so far. */
  readonly requests: number
  /** What an answer is instead; undefined: the part of the file. */
  answer: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined
  etag: string
}

/** A server on this host that has one file, and gives parts of it. */
export async function createRangeServer(path: string): Promise<RangeServer> {
  let requests = 0
  const server = createServer((request, response) => {
    requests++
    if (self.answer?.(request, response)) return
    const { size } = statSync(path)
    const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
    const [from, to] = match ? [Number(match[1]), Math.min(Number(match[2]), size - 1)] : [0, size - 1]
    response.setHeader('etag', self.etag)
    if (from >= size) {
      response.writeHead(416, { 'content-range': `bytes */${size}` }).end()
      return
    }
    if (match) response.setHeader('content-range', `bytes ${from}-${to}/${size}`)
    response.writeHead(match ? 206 : 200, { 'content-length': to - from + 1 })
    createReadStream(path, { start: from, end: to }).pipe(response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const self: RangeServer = {
    url: `http://127.0.0.1:${port}/guest.state`,
    get requests() {
      return requests
    },
    answer: undefined,
    etag: '"first"',
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return self
}
