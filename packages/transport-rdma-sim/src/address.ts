import { RdmaAddressError } from './errors.ts'
import type { RdmaAddress } from './verbs/verbs.ts'

/** @throws RdmaAddressError what follows `rdma:` is not `host:port` */
export function parseRdmaAddress(text: string): RdmaAddress {
  const match = /^(?:\[([^\]]+)\]|([^:[\],]*)):([^:,]*)$/.exec(text)
  if (!match) {
    const problem = text.includes(',')
      ? 'expected host:port; there are no options'
      : text.includes(':')
        ? 'expected host:port (put an IPv6 address in brackets)'
        : 'expected host:port, the port is missing'
    throw new RdmaAddressError(text, problem)
  }
  const port = Number(match[3])
  if (!/^\d{1,5}$/.test(match[3]!) || port > 65535) {
    throw new RdmaAddressError(text, `"${match[3]}" is not a port number from 0 to 65535`)
  }
  return { host: match[1] ?? match[2]!, port }
}

/** The text that parses to `address`, without the scheme. */
export const formatRdmaAddress = ({ host, port }: RdmaAddress): string =>
  `${host.includes(':') ? `[${host}]` : host}:${port}`
