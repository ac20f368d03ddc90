/** Sits between the two ends of a migration, knows the steps of postcopy by their bytes, and strikes at one of them. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

export interface Step {
  readonly name: string
  /** Which way the bytes go that make the step. */
  readonly way: 'forward' | 'back'
  readonly bytes: readonly number[]
  /** Strikes at the n-th. Default 1. */
  readonly occurrence?: number
  /** Of the step's bytes, and then of the stream behind it, passes so much before the strike. Default: the step alone. */
  readonly passing?: number
}

const ping = (value: number) => [8, 0, 2, 0, 4, 0, 0, 0, value]
const pong = (value: number) => [0, 2, 0, 4, 0, 0, 0, value]
const PACKAGED = [8, 0, 7, 0, 4]
const REQUEST = [0, 3, 0]
const REQUEST_AGAIN = [0, 4, 0, 12]

/** Spec: ram.md section 10. `passing` of the package counts its length field. */
export const STEPS: readonly Step[] = [
  { name: 'advise', way: 'forward', bytes: [8, 0, 3, 0, 16] },
  { name: 'first pages', way: 'forward', bytes: [8, 0, 3, 0, 16], passing: 200_000 },
  { name: 'pong 1', way: 'back', bytes: pong(1), passing: 0 },
  { name: 'discard', way: 'forward', bytes: [8, 0, 6, 0] },
  { name: 'ping 2', way: 'forward', bytes: ping(2) },
  { name: 'package announced', way: 'forward', bytes: PACKAGED },
  { name: 'half of the package', way: 'forward', bytes: PACKAGED, passing: 6000 },
  { name: 'pong 2', way: 'back', bytes: pong(2), passing: 0 },
  { name: 'ping 4', way: 'forward', bytes: ping(4), passing: 0 },
  { name: 'behind ping 4', way: 'forward', bytes: ping(4) },
  { name: 'pong 4', way: 'back', bytes: pong(4), passing: 0 },
  { name: 'pong 3', way: 'back', bytes: pong(3), passing: 0 },
  { name: 'first request', way: 'back', bytes: REQUEST, passing: 0 },
  { name: 'fifth request', way: 'back', bytes: REQUEST_AGAIN, occurrence: 5 },
  { name: 'thirtieth request', way: 'back', bytes: REQUEST_AGAIN, occurrence: 30 },
  { name: 'pages behind the guest', way: 'forward', bytes: ping(4), passing: 500_000 },
  { name: 'shut', way: 'back', bytes: [0, 1, 0, 4, 0, 0, 0, 0], passing: 0 },
]

export interface CuttingProxy extends AsyncDisposable {
  readonly uri: string
  /** Resolves at the strike, before anything more has passed. */
  readonly struck: Promise<void>
  /** Breaks every connection. */
  cut(): void
}

/** @param strike is called in the moment of the step; nothing passes any more after it */
export async function cuttingProxy(
  target: string,
  step: Step,
  strike: (proxy: CuttingProxy) => void,
): Promise<CuttingProxy> {
  const port = Number(target.slice(target.lastIndexOf(':') + 1))
  const sockets = new Set<Socket>()
  const struck = Promise.withResolvers<void>()
  let down = false
  const server: Server = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
    }
    pipe(near, far, 'forward')
    pipe(far, near, 'back')
  })
  const pipe = (from: Socket, to: Socket, way: Step['way']) => {
    const watch = step.way === way ? watcher(step) : undefined
    from.on('data', (chunk: Buffer) => {
      if (down) return
      const passing = watch?.(chunk)
      if (passing === undefined) {
        if (!to.write(chunk)) {
          from.pause()
          to.once('drain', () => from.resume())
        }
        return
      }
      down = true
      to.write(chunk.subarray(0, passing), () => {
        strike(proxy)
        struck.resolve()
      })
    })
    from.on('end', () => to.end())
    from.on('close', () => to.destroy())
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const proxy: CuttingProxy = {
    uri: `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`,
    struck: struck.promise,
    cut() {
      for (const socket of sockets) socket.destroy()
    },
    async [Symbol.asyncDispose]() {
      proxy.cut()
      server.close()
    },
  }
  return proxy
}

/** @returns what tells, chunk by chunk, how many bytes of it still pass; undefined: all, the step has not come */
function watcher({ bytes, occurrence = 1, passing = bytes.length }: Step): (chunk: Buffer) => number | undefined {
  const wanted = Buffer.from(bytes)
  let seen = 0
  let before = 0
  let tail = Buffer.alloc(0)
  /** Stream offset of the strike. */
  let limit: number | undefined
  return (chunk) => {
    const joined = Buffer.concat([tail, chunk])
    const base = before - tail.length
    for (let at = joined.indexOf(wanted); limit === undefined && at >= 0; at = joined.indexOf(wanted, at + 1)) {
      if (++seen === occurrence) limit = Math.max(before, base + at + passing)
    }
    tail = Buffer.from(joined.subarray(Math.max(0, joined.length - wanted.length + 1)))
    const start = before
    before += chunk.length
    return limit !== undefined && limit <= before ? limit - start : undefined
  }
}
