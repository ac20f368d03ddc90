import { fstatSync, fsync } from 'node:fs'
import { Socket } from 'node:net'
import { isatty } from 'node:tty'
import {
  type Channel,
  ChannelClosedError,
  type ChannelFeature,
  defineTraceEvents,
  defineTransport,
  singleChannelListener,
  type Transport,
  UnsupportedFeatureError,
} from '@ferryvm/core'
import { fromDuplex, fromFd } from '@ferryvm/core/node'
import { FdAddressError, FdOpenError } from './errors.ts'

const trace = defineTraceEvents({
  migration_fd_outgoing: { fd: 'int' },
  migration_fd_incoming: { fd: 'int' },
})

/** What a socket can do. Channels over pipes and files declare nothing: nobody answers on them. */
const FEATURES: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>(['shutdown'])
const ONE_WAY: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>()
/** Larger numbers are a mistake of whoever typed them; the kernel's own limit is about here. */
const MAX_FD = 2 ** 30

/**
 * `fd:NUMBER`: a descriptor that this process inherited or opened. It belongs to the migration from then on and is closed
 * with it. Spec: protocol.md section 7.
 */
export function fd(): Transport<number> {
  return defineTransport<number>({
    scheme: 'fd',
    features: FEATURES,
    parseAddress,
    formatAddress: String,
    async connect(number, { signal }) {
      trace.migration_fd_outgoing({ fd: number })
      signal.throwIfAborted()
      return open(number, 'write')
    },
    async listen(number, { signal }) {
      trace.migration_fd_incoming({ fd: number })
      signal.throwIfAborted()
      return singleChannelListener(number, open(number, 'read'), signal)
    },
  })
}

function parseAddress(text: string): number {
  if (/^\d{1,10}$/.test(text) && Number(text) <= MAX_FD) return Number(text)
  throw new FdAddressError(
    text,
    /^[^\d-]/.test(text)
      ? 'names that a monitor was given (getfd) are not available: Node cannot receive descriptors; ' +
          'let this process inherit one and give its number, for example fd:3'
      : 'expected the number of a descriptor that this process inherited, for example fd:3',
  )
}

function open(number: number, direction: 'read' | 'write'): Channel {
  const kind = kindOf(number)
  if (kind === 'file') return oneWay(number, direction)
  let socket: Socket
  try {
    const pipe = kind === 'pipe'
    socket = new Socket({
      fd: number,
      readable: !pipe || direction === 'read',
      writable: !pipe || direction === 'write',
      allowHalfOpen: true,
    })
  } catch (cause) {
    throw new FdOpenError(number, cause instanceof Error ? cause.message : String(cause), cause)
  }
  const channel = fromDuplex(socket)
  return kind === 'socket' ? channel : withoutAnswer(channel, direction)
}

function kindOf(number: number): 'socket' | 'pipe' | 'file' {
  let info: ReturnType<typeof fstatSync>
  try {
    info = fstatSync(number)
  } catch (cause) {
    throw new FdOpenError(number, 'this process has no such descriptor', cause)
  }
  if (info.isSocket()) return 'socket'
  if (info.isFIFO()) return 'pipe'
  if (info.isFile() || info.isBlockDevice()) return 'file'
  if (info.isCharacterDevice() && !isatty(number)) return 'file'
  throw new FdOpenError(number, 'it is no socket, pipe or file')
}

/** A file, from where it stands. */
function oneWay(number: number, direction: 'read' | 'write'): Channel {
  const channel = withoutAnswer(direction === 'read' ? fromFd(number, -1) : fromFd(-1, number), direction)
  return direction === 'read' ? channel : { ...channel, finish: () => toMedium(number, channel) }
}

/** The guest lives nowhere else afterwards. */
async function toMedium(number: number, channel: Channel): Promise<void> {
  await channel.write([]) // fails when the channel is closed
  const error = await new Promise<NodeJS.ErrnoException | null>((resolve) => fsync(number, resolve))
  // A device such as /dev/null has nothing to bring to a medium.
  if (error && error.code !== 'EINVAL' && error.code !== 'ENOTSUP') {
    throw new ChannelClosedError(`descriptor ${number}: ${error.message}`, { cause: error })
  }
}

/** Pipes and files: one direction, and an end only by closing. */
function withoutAnswer(channel: Channel, direction: 'read' | 'write'): Channel {
  let closed: ChannelClosedError | undefined
  const refuse = async (feature: string): Promise<never> => {
    throw closed ?? new UnsupportedFeatureError(feature, 'a pipe or a file')
  }
  return {
    features: ONE_WAY,
    read: (into) => (direction === 'read' ? channel.read(into) : refuse('return-path')),
    write: (buffers) => (direction === 'write' ? channel.write(buffers) : refuse('return-path')),
    shutdown: () => refuse('shutdown'),
    close(reason) {
      closed ??= new ChannelClosedError(`the channel is closed${reason ? `: ${reason.message}` : ''}`, {
        cause: reason,
      })
      return channel.close(reason)
    },
  }
}
