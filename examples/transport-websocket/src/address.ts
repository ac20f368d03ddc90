import { WebSocketAddressError } from './errors.ts'

export interface WebSocketAddress {
  /** Name or number; IPv6 without brackets. */
  readonly host: string
  /** 0: the system picks one (only for listening). */
  readonly port: number
  /** Begins with a slash. */
  readonly path: string
}

/** What follows `ws:`, as in `ws://host:port/path`. @throws WebSocketAddressError */
export function parseWebSocketAddress(text: string): WebSocketAddress {
  const fail = (problem: string): never => {
    throw new WebSocketAddressError(`"ws:${text}": ${problem}; expected ws://host:port/path`)
  }
  const match = /^\/\/(?:\[([^\]]+)\]|([^:/?#[\]@]+)):(\d{1,5})(\/[^?#\s]*)?$/.exec(text)
  if (!match) return fail('it is no address')
  const port = Number(match[3])
  if (port > 65535) fail(`${port} is no port`)
  return { host: (match[1] ?? match[2])!, port, path: match[4] ?? '/' }
}

/** The text that parses to `address`. */
export const formatWebSocketAddress = ({ host, port, path }: WebSocketAddress): string =>
  `//${host.includes(':') ? `[${host}]` : host}:${port}${path}`
