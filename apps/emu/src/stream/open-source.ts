import { fstatSync, readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { type Channel, silentLogger, type Transport } from '@ferryvm/core'
import { type ByteSource, channelSource, fileSource, type PositionedReader } from '@ferryvm/stream'
import { UsageError } from '../usage-error.ts'

export interface OpenSource extends AsyncDisposable {
  readonly source: ByteSource
  /** Its sender may wait for us at the end. */
  readonly live: boolean
  /** For messages. */
  readonly name: string
}

/** Most streams are files, and need none of them. */
const TRANSPORTS: Readonly<Record<string, () => Promise<Transport<any>>>> = {
  tcp: async () => (await import('@ferryvm/transport-socket')).tcp(),
  unix: async () => (await import('@ferryvm/transport-socket')).unix(),
  exec: async () => (await import('@ferryvm/transport-exec')).exec(),
  fd: async () => (await import('@ferryvm/transport-fd')).fd(),
  file: async () => (await import('@ferryvm/transport-file')).file(),
}

/**
 * A file, `-` for standard input, or an address as `-incoming` takes it: `emu inspect tcp:0.0.0.0:4444` is what
 * `migrate tcp:host:4444` of a running QEMU then talks to; `emu inspect 'exec:gzip -dc guest.gz'`.
 */
export async function openSource(name: string): Promise<OpenSource> {
  if (name === '-') return standardInput()
  const [, scheme = '', address = ''] = /^([a-z]+):(.*)$/s.exec(name) ?? []
  if (Object.hasOwn(TRANSPORTS, scheme)) return listen(await TRANSPORTS[scheme]!(), address, name)
  const file = await open(name).catch((cause: Error) => {
    throw new UsageError(`${name}: ${cause.message}`, { cause })
  })
  try {
    const facts = await file.stat()
    if (facts.isDirectory()) throw new UsageError(`${name}: this is a folder`)
    const source = facts.isFile() ? fileSource(positioned(file.fd), facts.size) : inOrder(file)
    return { source, name, live: false, [Symbol.asyncDispose]: () => file.close() }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** A command has nothing else to do meanwhile, and a read of a file in a thread of its own costs as much again. */
const positioned = (fd: number): PositionedReader => ({
  read: (into, at, length, position) => ({ bytesRead: readSync(fd, into, at, length, position) }),
})

/** `null`: from where the last read ended. */
type Reader = {
  read(into: Uint8Array, at: number, length: number, position: number | null): Promise<{ bytesRead: number }>
}
const inOrder = (file: Reader): ByteSource =>
  channelSource({ read: async (into) => (await file.read(into, 0, into.length, null)).bytesRead })

/** Redirected from a file it can seek like one. */
async function standardInput(): Promise<OpenSource> {
  const facts = fstatSync(0)
  const source = facts.isFile() ? fileSource(positioned(0), facts.size) : chunksSource(process.stdin)
  return {
    source,
    name: 'standard input',
    live: false,
    [Symbol.asyncDispose]: async () => void process.stdin.destroy(),
  }
}

/** Pipes may be non-blocking: reading the descriptor itself would fail where nothing has come yet. */
function chunksSource(chunks: AsyncIterable<Uint8Array>): ByteSource {
  const iterator = chunks[Symbol.asyncIterator]()
  let chunk: Uint8Array | undefined
  return {
    async read(into) {
      while (!chunk || chunk.length === 0) {
        const next = await iterator.next()
        if (next.done) return 0
        chunk = next.value
      }
      const part = chunk.subarray(0, into.length)
      into.set(part)
      chunk = chunk.subarray(part.length)
      return part.length
    },
  }
}

/** Then somebody is told what is waited for. */
const SILENCE_MS = 5000

/** A sender that keeps the connection open behind a stream without a description never says that it has ended. */
function noticingSilence(channel: Channel, name: string): Pick<Channel, 'read'> {
  let told = false
  const notice = () => {
    if (!told) {
      console.error(
        `${name}: nothing has come for ${SILENCE_MS / 1000} s, and the connection is open. A stream without a description ` +
          '(suppress-vmdesc=on) ends only when its sender closes it; Ctrl-C gives up',
      )
    }
    told = true
  }
  return {
    read(into) {
      const count = channel.read(into)
      if (typeof count === 'number') return count
      const timer = setTimeout(notice, SILENCE_MS)
      return count.finally(() => clearTimeout(timer))
    },
  }
}

async function listen(transport: Transport, address: string, name: string): Promise<OpenSource> {
  const ctx = { signal: new AbortController().signal, log: silentLogger }
  const listener = await transport.listen(transport.parseAddress(address), ctx)
  if (transport.features.has('shutdown'))
    console.error(`waiting on ${transport.scheme}:${transport.formatAddress?.(listener.address) ?? address}`)
  for await (const channel of listener) {
    await listener[Symbol.asyncDispose]()
    const source = channelSource(noticingSilence(channel, name))
    return { source, name, live: channel.features.has('shutdown'), [Symbol.asyncDispose]: () => channel.close() }
  }
  throw new UsageError(`${name}: nobody connected`)
}
