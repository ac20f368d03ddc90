/** `-chardev BACKEND,id=I,…`: the host's ends of serial lines, for devices that name one. */
import { type Chardev, fileChardev, nullChardev, type SocketAddress, SocketChardev } from './chardev.ts'
import { isOn, type Keyvals } from './keyval.ts'
import { UsageError } from './usage-error.ts'

const BACKENDS = ['null', 'stdio', 'file', 'socket'] as const

/**
 * @param stdio makes the terminal's backend; @param stdio.mux it is shared with the monitor
 * @throws UsageError what is wrong with the option, or the host refuses
 */
export async function openChardev(
  { backend = '', id = '', ...rest }: Keyvals,
  stdio: (mux: boolean) => Chardev,
): Promise<Chardev> {
  const text = `-chardev ${backend},id=${id}`
  const { mux, signal: _, logfile, ...options } = rest
  if (logfile !== undefined) throw new UsageError(`${text}: logfile= is not supported`)
  if (mux !== undefined && backend !== 'stdio') throw new UsageError(`${text}: mux= is supported for stdio only`)
  switch (backend) {
    case 'null':
      none(text, options)
      return nullChardev()
    case 'stdio':
      none(text, options)
      return stdio(isOn(mux))
    case 'file': {
      const { path, append: _, ...unknown } = options
      none(text, unknown)
      if (!path) throw new UsageError(`${text}: path= is missing`)
      return fileChardev(path)
    }
    case 'socket': {
      const { server = 'off', address } = socketAddress(text, options)
      return isOn(server) ? SocketChardev.listen(address) : SocketChardev.connect(address)
    }
    case 'pty':
      throw new UsageError(`${text}: Node cannot make pseudo terminals; use socket (and socat PTY UNIX:…)`)
    default:
      throw new UsageError(`${text}: unsupported backend (there are: ${BACKENDS.join(', ')})`)
  }
}

function socketAddress(text: string, options: Keyvals): { server?: string; address: SocketAddress } {
  const { server, wait, nodelay: _, telnet, path, host = '127.0.0.1', port, ipv4: __, ...unknown } = options
  none(text, unknown)
  if (isOn(telnet)) throw new UsageError(`${text}: telnet=on is not supported`)
  if (isOn(server) && wait !== undefined && isOn(wait)) {
    throw new UsageError(`${text}: wait=on is not supported; nobody is waited for`)
  }
  if (path) return { server, address: { path } }
  if (!port || !/^\d{1,5}$/.test(port) || Number(port) > 65535) {
    throw new UsageError(`${text}: needs path= or port=`)
  }
  return { server, address: { host: host || '127.0.0.1', port: Number(port) } }
}

function none(text: string, unknown: Keyvals): void {
  const first = Object.keys(unknown)[0]
  if (first) throw new UsageError(`${text}: unknown option '${first}'`)
}
