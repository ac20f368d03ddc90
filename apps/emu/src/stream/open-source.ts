import { fstat as fstatCallback, read as readCallback } from 'node:fs'
import { open } from 'node:fs/promises'
import { promisify } from 'node:util'
import { type Channel, silentLogger, type Transport } from '@ferryvm/core'
import { type ByteSource, channelSource, fileSource, type PositionedReader } from '@ferryvm/stream'
import { exec } from '@ferryvm/transport-exec'
import { fd } from '@ferryvm/transport-fd'
import { file as fileTransport } from '@ferryvm/transport-file'
import { tcp, unix } from '@ferryvm/transport-socket'
import { UsageError } from '../usage-error.ts'

export interface OpenSource extends AsyncDisposable {
  readonly source: ByteSource
  /** For messages. */
  readonly name: string
}

const TRANSPORTS: readonly Transport<any>[] = [tcp(), unix(), exec(), fd(), fileTransport()]

/**
 * A file, `-` for standard input, or an address as `-incoming` takes it: `emu inspect tcp:0.0.0.0:4444` is what
 * `migrate tcp:host:4444` of a running QEMU then talks to; `emu inspect 'exec:gzip -dc guest.gz'`.
 */
export async function openSource(name: string): Promise<OpenSource> {
  if (name === '-') return standardInput()
  const transport = TRANSPORTS.find(({ scheme }) => name.startsWith(`${scheme}:`))
  if (transport) return listen(transport, name.slice(transport.scheme.length + 1), name)
  const file = await open(name).catch((cause: Error) => {
    throw new UsageError(`${name}: ${cause.message}`, { cause })
  })
  try {
    const facts = await file.stat()
    if (facts.isDirectory()) throw new UsageError(`${name}: this is a folder`)
    const source = facts.isFile() ? fileSource(file, facts.size) : inOrder(file)
    return { source, name, [Symbol.asyncDispose]: () => file.close() }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** `null`: from where the last read ended. */
type Reader = {
  read(into: Uint8Array, at: number, length: number, position: number | null): Promise<{ bytesRead: number }>
}
const inOrder = (file: Reader): ByteSource =>
  channelSource({ read: async (into) => (await file.read(into, 0, into.length, null)).bytesRead })

/** Redirected from a file it can seek like one. */
async function standardInput(): Promise<OpenSource> {
  const facts = await promisify(fstatCallback)(0)
  const read = promisify(readCallback)
  const seekable: PositionedReader = { read: (into, at, length, position) => read(0, into, at, length, position) }
  const source = facts.isFile() ? fileSource(seekable, facts.size) : chunksSource(process.stdin)
  return { source, name: 'standard input', [Symbol.asyncDispose]: async () => void process.stdin.destroy() }
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

async function listen(transport: Transport, address: string, name: string): Promise<OpenSource> {
  const ctx = { signal: new AbortController().signal, log: silentLogger }
  const listener = await transport.listen(transport.parseAddress(address), ctx)
  if (transport.features.has('shutdown'))
    console.error(`waiting on ${transport.scheme}:${transport.formatAddress?.(listener.address) ?? address}`)
  for await (const channel of listener) {
    await listener[Symbol.asyncDispose]()
    return channelSourceOf(channel, name)
  }
  throw new UsageError(`${name}: nobody connected`)
}

const channelSourceOf = (channel: Channel, name: string): OpenSource => ({
  source: channelSource(channel),
  name,
  [Symbol.asyncDispose]: () => channel.close(),
})
