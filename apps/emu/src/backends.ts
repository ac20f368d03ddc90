/** The host's ends of a machine's devices, by the names that options give them. */
import type { CharBackend, Logger, NetBackend } from '@ferryvm/core'
import { NetHub, UserNet } from '@ferryvm/netdev'
import { type Chardev, fileChardev, nullChardev, parseListenAddress, SocketChardev } from './chardev.ts'
import { openChardev } from './chardev-options.ts'
import { type Netdevs, openNetdevs } from './netdev-options.ts'
import type { RunOptions } from './run-options.ts'
import { Terminal } from './terminal.ts'
import { UsageError } from './usage-error.ts'

export interface Backends {
  readonly serial: CharBackend
  /** Of `-chardev`, by id. */
  readonly chardevs: ReadonlyMap<string, CharBackend>
  /** Of `-netdev`, by id. */
  readonly netdevs: ReadonlyMap<string, NetBackend>
}

export interface OpenBackends extends Backends {
  /** Who has the terminal, if somebody has. */
  readonly terminal?: Terminal
  close(): Promise<void>
}

/** For a machine that is only looked at. */
export const nullBackends = (options: RunOptions): Backends => ({
  serial: nullChardev(),
  chardevs: new Map(options.chardevs.map(({ id }) => [id!, nullChardev()])),
  netdevs: new Map(options.netdevs.map(({ type, id }) => [id!, type === 'user' ? new UserNet() : new NetHub().port()])),
})

/** @throws UsageError what is wrong with the options, or the host refuses; nothing is left open */
export async function openBackends(options: RunOptions, log: Logger, quit: () => void): Promise<OpenBackends> {
  const chardevs = new Map<string, Chardev>()
  let terminal: Terminal | undefined
  let serial: Chardev | undefined
  let netdevs: Netdevs | undefined
  const close = async () => {
    for (const chardev of new Set([...(serial ? [serial] : []), ...chardevs.values()])) await chardev.close()
    await netdevs?.close()
  }
  const useTerminal = (mux: boolean): Chardev => {
    if (terminal) throw new UsageError('-chardev stdio: the terminal is in use; give -serial none or another')
    terminal = new Terminal({ quit, mux, start: 'serial' })
    return terminal.serial
  }
  try {
    for (const chardev of options.chardevs) chardevs.set(chardev.id!, await openChardev(chardev, useTerminal))
    serial = await openSerial(options.serial, chardevs, useTerminal)
    netdevs = await openNetdevs(options.netdevs, log)
    return { serial, chardevs, netdevs: netdevs.backends, terminal, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function openSerial(
  serial: string,
  chardevs: ReadonlyMap<string, Chardev>,
  useTerminal: (mux: boolean) => Chardev,
): Promise<Chardev> {
  if (serial === 'none' || serial === 'null') return nullChardev()
  if (serial === 'stdio' || serial === 'mon:stdio') return useTerminal(serial === 'mon:stdio')
  if (serial.startsWith('file:')) return fileChardev(serial.slice('file:'.length))
  if (serial.startsWith('chardev:')) {
    const id = serial.slice('chardev:'.length)
    const chardev = chardevs.get(id)
    if (!chardev) throw new UsageError(`-serial ${serial}: there is no -chardev with id=${id}`)
    return chardev
  }
  return SocketChardev.listen(parseListenAddress(serial))
}
