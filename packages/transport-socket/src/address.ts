import { SocketAddressError } from './errors.ts'

/** `tcp:host:port[,option...]`. Spec: protocol.md section 7. */
export interface TcpAddress {
  readonly kind: 'tcp'
  /** Name or number without brackets; empty: this host alone (only for listening). */
  readonly host: string
  /** 0: the system picks one (only for listening). */
  readonly port: number
  /** When listening: try ports from `port` up to this one. */
  readonly to?: number
  readonly ipv4?: boolean
  readonly ipv6?: boolean
  readonly keepAlive?: boolean
}
/** `unix:path`; the path is everything after the colon. */
export interface UnixAddress {
  readonly kind: 'unix'
  readonly path: string
}
export type SocketAddress = TcpAddress | UnixAddress

/** Room for a path in sockaddr_un, without the terminator. */
const MAX_UNIX_PATH_BYTES = 107

/** @throws SocketAddressError what follows `tcp:` does not follow the grammar */
export function parseTcpAddress(text: string): TcpAddress {
  const fail = (problem: string): never => {
    throw new SocketAddressError('tcp', text, problem)
  }
  const [endpoint = '', ...options] = text.split(',')
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):([^:]*)$/.exec(endpoint)
  if (!match) {
    return fail(
      endpoint.includes(':')
        ? 'expected host:port (put an IPv6 address in brackets)'
        : 'expected host:port, the port is missing',
    )
  }
  const [, v6, plain, portText] = match
  if (v6 === '') fail('the brackets are empty')
  const port = parsePort(portText!) ?? fail(`"${portText}" is not a port number from 0 to 65535`)
  const parsed: { -readonly [K in keyof TcpAddress]: TcpAddress[K] } = { kind: 'tcp', host: v6 ?? plain!, port }
  for (const option of options) {
    const [name, value] = option.split('=', 2) as [string, string | undefined]
    const flag = (): boolean => {
      if (value === undefined || value === 'on') return true
      return value === 'off' ? false : fail(`option ${name} is on or off, not "${value}"`)
    }
    if (name === 'to') {
      const to = parsePort(value ?? '') ?? fail(`option to: "${value ?? ''}" is not a port number from 0 to 65535`)
      if (to < port) fail(`option to: ${to} is below the first port, ${port}`)
      parsed.to = to
    } else if (name === 'ipv4') parsed.ipv4 = flag()
    else if (name === 'ipv6') parsed.ipv6 = flag()
    else if (name === 'keep-alive') parsed.keepAlive = flag()
    else if (name === 'mptcp') {
      if (flag()) fail('option mptcp is not supported')
    } else fail(`unknown option "${name}" (known: to, ipv4, ipv6, keep-alive, mptcp)`)
  }
  if (parsed.ipv4 === false && parsed.ipv6 === false) fail('ipv4 and ipv6 are both off')
  return parsed
}

/** @throws SocketAddressError empty, or longer than the system can bind (107 bytes) */
export function parseUnixAddress(text: string): UnixAddress {
  if (text === '') throw new SocketAddressError('unix', text, 'the path is empty')
  if (text.includes('\0')) throw new SocketAddressError('unix', text, 'the path contains a zero byte')
  const bytes = new TextEncoder().encode(text).length
  if (bytes > MAX_UNIX_PATH_BYTES) {
    throw new SocketAddressError('unix', text, `the path has ${bytes} bytes, at most ${MAX_UNIX_PATH_BYTES} fit`)
  }
  return { kind: 'unix', path: text }
}

/** The text that parses to `address`, without the scheme. */
export function formatAddress(address: SocketAddress): string {
  if (address.kind === 'unix') return address.path
  const flag = (name: string, value: boolean | undefined) =>
    value === undefined ? '' : `,${name}=${value ? 'on' : 'off'}`
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return (
    `${host}:${address.port}` +
    (address.to === undefined ? '' : `,to=${address.to}`) +
    flag('ipv4', address.ipv4) +
    flag('ipv6', address.ipv6) +
    flag('keep-alive', address.keepAlive)
  )
}

/** IP version asked for by the options: 0 is either. A version that is `on` alone excludes the other. */
export function familyOf({ ipv4, ipv6 }: TcpAddress): 0 | 4 | 6 {
  if (ipv4 === ipv6) return 0
  return ipv4 === true || ipv6 === false ? 4 : 6
}

function parsePort(text: string): number | undefined {
  if (!/^\d{1,5}$/.test(text)) return undefined
  const port = Number(text)
  return port <= 65535 ? port : undefined
}
