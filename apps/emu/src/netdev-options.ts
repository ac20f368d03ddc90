/** `-netdev TYPE,id=I,…` with QEMU's names: what network cards are plugged into. */
import type { Logger, NetBackend } from '@ferryvm/core'
import { NetHub, UserNet } from '@ferryvm/netdev'
import { type DatagramAddress, DatagramNet, type SocketNet, type StreamAddress, StreamNet } from '@ferryvm/netdev/node'
import { isOn, type Keyvals } from './keyval.ts'
import { UsageError } from './usage-error.ts'

const TYPES = ['user', 'stream', 'dgram', 'socket', 'hubport']
const ANY = '0.0.0.0'

export interface Netdevs {
  readonly backends: ReadonlyMap<string, NetBackend>
  close(): Promise<void>
}

/** @throws UsageError what is wrong with an option, or the host refuses; nothing is left open */
export async function openNetdevs(options: readonly Keyvals[], log: Logger): Promise<Netdevs> {
  const opener = new Opener(log)
  try {
    for (const option of options) await opener.open(option)
    return opener
  } catch (error) {
    await opener.close()
    throw error
  }
}

class Opener implements Netdevs {
  readonly backends = new Map<string, NetBackend>()
  readonly #log: Logger
  readonly #sockets: SocketNet[] = []
  readonly #hubs = new Map<string, NetHub>()

  constructor(log: Logger) {
    this.#log = log
  }

  async open({ type = '', id = '', ...rest }: Keyvals): Promise<void> {
    const option = new Option(`-netdev ${type},id=${id}`, rest)
    const backend = await this.#backend(type, option).catch((cause: Error) => {
      throw cause instanceof UsageError ? cause : new UsageError(`${option.text}: ${cause.message}`, { cause })
    })
    option.end()
    this.backends.set(id, backend)
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) await socket.close()
  }

  async #backend(type: string, option: Option): Promise<NetBackend> {
    switch (type) {
      case 'user':
        return userNet(option)
      case 'stream':
        return this.#stream(option)
      case 'dgram':
        return this.#datagram(option)
      case 'socket':
        return this.#socket(option)
      case 'hubport':
        return this.#hubPort(option)
      default:
        throw new UsageError(`${option.text}: unsupported type (there are: ${TYPES.join(', ')})`)
    }
  }

  #keep<T extends SocketNet>(net: T): T {
    this.#sockets.push(net)
    return net
  }

  async #stream(option: Option): Promise<NetBackend> {
    const server = isOn(option.take('server'))
    const address = option.address('addr')
    const seconds = option.take('reconnect')
    const ms = option.take('reconnect-ms') ?? (seconds === undefined ? undefined : String(1000 * Number(seconds)))
    if (ms !== undefined && (server || !/^[1-9]\d{0,7}$/.test(ms))) {
      throw new UsageError(`${option.text}: reconnect is a client's, and a time`)
    }
    const reconnectMs = ms === undefined ? undefined : Number(ms)
    option.end()
    return this.#keep(await StreamNet.open({ address, server, reconnectMs, log: this.#log }))
  }

  async #datagram(option: Option): Promise<NetBackend> {
    const [local, remote] = [option.address('local', true), option.address('remote')]
    if ('path' in remote || (local && 'path' in local)) {
      throw new UsageError(`${option.text}: only type=inet; Node has no datagram sockets in the file system`)
    }
    option.end()
    const multicast = isMulticast(remote)
    if (!local && !multicast) throw new UsageError(`${option.text}: local.host= and local.port= are missing`)
    return this.#keep(await DatagramNet.open({ local: local ?? { host: ANY, port: 0 }, remote, multicast }))
  }

  async #socket(option: Option): Promise<NetBackend> {
    const [listen, connect, mcast, udp] = ['listen', 'connect', 'mcast', 'udp'].map((key) => option.take(key))
    const localaddr = option.take('localaddr')
    option.end()
    if ([listen, connect, mcast, udp].filter((given) => given !== undefined).length !== 1) {
      throw new UsageError(
        `${option.text}: needs one of listen=, connect=, mcast=, udp= (an inherited fd= is not supported)`,
      )
    }
    if (mcast) {
      const local = { host: localaddr ?? ANY, port: 0 }
      return this.#keep(await DatagramNet.open({ local, remote: hostAndPort(option, mcast), multicast: true }))
    }
    if (udp) {
      if (!localaddr) throw new UsageError(`${option.text}: localaddr= is missing`)
      const local = hostAndPort(option, localaddr)
      return this.#keep(await DatagramNet.open({ local, remote: hostAndPort(option, udp) }))
    }
    const server = listen !== undefined
    const address = hostAndPort(option, listen ?? connect!, server ? ANY : '127.0.0.1')
    return this.#keep(await StreamNet.open({ address, server, log: this.#log }))
  }

  #hubPort(option: Option): NetBackend {
    const hubid = option.take('hubid') ?? '0'
    const inner = option.take('netdev')
    let hub = this.#hubs.get(hubid)
    if (!hub) this.#hubs.set(hubid, (hub = new NetHub()))
    const network = inner === undefined ? undefined : this.backends.get(inner)
    if (inner !== undefined && !network)
      throw new UsageError(`${option.text}: there is no -netdev with id=${inner} before it`)
    if (network) hub.attach(network)
    return hub.port()
  }
}

/** What QEMU's has beyond a network to be in: nothing of it changes what there is here, or it is refused. */
function userNet(option: Option): NetBackend {
  for (const key of ['ipv4', 'restrict', 'hostname']) option.take(key)
  return new UserNet()
}

const isMulticast = ({ host }: DatagramAddress): boolean => {
  const first = Number(host.split('.')[0])
  return first >= 224 && first < 240
}

/** The properties of one option that were not looked at yet. */
class Option {
  readonly text: string
  readonly #rest: Keyvals

  constructor(text: string, rest: Keyvals) {
    this.text = text
    this.#rest = { ...rest }
  }

  take(key: string): string | undefined {
    const value = this.#rest[key]
    delete this.#rest[key]
    return value
  }

  /** `NAME.type=inet|unix` and what belongs to it. */
  address(name: string, optional: true): StreamAddress | undefined
  address(name: string): StreamAddress
  address(name: string, optional = false): StreamAddress | undefined {
    const [type, path, host, port] = ['type', 'path', 'host', 'port'].map((key) => this.take(`${name}.${key}`))
    if (optional && type === undefined && host === undefined && path === undefined) return undefined
    if (path && (type ?? 'unix') === 'unix') return { path }
    if ((type ?? 'inet') !== 'inet') throw new UsageError(`${this.text}: ${name}.type=${type}: there are inet and unix`)
    return hostAndPort(this, `${host ?? ''}:${port ?? ''}`)
  }

  /** @throws UsageError something is left */
  end(): void {
    const first = Object.keys(this.#rest)[0]
    if (first) throw new UsageError(`${this.text}: '${first}' is not supported`)
  }
}

function hostAndPort(option: Option, text: string, host = '127.0.0.1'): DatagramAddress {
  const match = /^(.*):(\d{1,5})$/.exec(text)
  if (!match || Number(match[2]) > 65535) throw new UsageError(`${option.text}: '${text}' is not HOST:PORT`)
  return { host: match[1] || host, port: Number(match[2]) }
}
