/** How a guest gets from one peer to another by each transport, in the words that both of them understand. */
import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { socketPair } from '../../packages/transport-fd/src/socket-pair-testing.ts'
import type { Passage, Peer, PeerKind } from './peers.ts'

export const TRANSPORTS = ['tcp', 'unix', 'exec', 'fd', 'file'] as const
export type TransportName = (typeof TRANSPORTS)[number]

/** Where the stream begins in files: what is before it belongs to somebody else. */
const OFFSET = 65_536

/** Descriptors of this process, for both ends of a hop by `fd:`. */
export interface Descriptors {
  readonly incoming: number
  readonly outgoing: number
}

/** Ends of a new pipe, or connected sockets, on which the receiver can answer: libvirt gives both kinds. */
export async function createDescriptors(kind: 'pipe' | 'sockets', folder: string, name: string): Promise<Descriptors> {
  if (kind === 'sockets') {
    const [incoming, outgoing] = await socketPair()
    return { incoming, outgoing }
  }
  const path = namedPipe(folder, name)
  // Opened both ways first, so that neither end waits for the other.
  const both = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
  const ends = { incoming: openSync(path, constants.O_RDONLY), outgoing: openSync(path, constants.O_WRONLY) }
  closeSync(both)
  rmSync(path)
  return ends
}

function namedPipe(folder: string, name: string): string {
  const path = join(folder, name)
  execFileSync('mkfifo', [path])
  return path
}

/**
 * @param name unique in the folder
 * @param descriptors for `fd:`; the receiver was created with its own
 */
export async function passage(
  transport: TransportName,
  from: Peer,
  to: Peer,
  folder: string,
  name: string,
  descriptors?: Descriptors,
): Promise<Passage> {
  const path = join(folder, name)
  switch (transport) {
    case 'tcp':
      return { listen: 'tcp:127.0.0.1:0' }
    case 'unix':
      return { listen: `unix:${path}` }
    case 'exec':
      namedPipe(folder, name)
      return { listen: `exec:cat ${path}`, send: `exec:cat > ${path}` }
    case 'fd':
      return { listen: to.incomingFd, send: await from.give(descriptors!.outgoing) }
    case 'file': {
      const file = `file:${path},offset=${OFFSET}`
      return {
        send: knowsFiles(from.kind) ? file : `exec:(head -c ${OFFSET} /dev/zero; cat) > ${path}`,
        listen: knowsFiles(to.kind) ? file : `exec:tail -c +${OFFSET + 1} ${path}`,
        kept: true,
      }
    }
  }
}

/** `file:` is there since 8.2. */
const knowsFiles = (kind: PeerKind) => kind !== '7.2'
