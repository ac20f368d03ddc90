/** How a guest gets from one peer to another by each transport, in the words that both of them understand. */
import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Passage, Peer, PeerKind } from './peers.ts'

export const TRANSPORTS = ['tcp', 'unix', 'exec', 'fd', 'file'] as const
export type TransportName = (typeof TRANSPORTS)[number]

/** Where the stream begins in files: what is before it belongs to somebody else. */
const OFFSET = 65_536

export interface Pipe {
  /** Descriptors of this process. */
  readonly reading: number
  readonly writing: number
}

/** A new pipe, for `fd:`. */
export function createPipe(folder: string, name: string): Pipe {
  const path = namedPipe(folder, name)
  // Opened both ways first, so that neither end waits for the other.
  const both = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
  const pipe = { reading: openSync(path, constants.O_RDONLY), writing: openSync(path, constants.O_WRONLY) }
  closeSync(both)
  rmSync(path)
  return pipe
}

function namedPipe(folder: string, name: string): string {
  const path = join(folder, name)
  execFileSync('mkfifo', [path])
  return path
}

/**
 * @param name unique in the folder
 * @param pipe for `fd:`; the receiver was created with its reading end
 */
export async function passage(
  transport: TransportName,
  from: Peer,
  to: Peer,
  folder: string,
  name: string,
  pipe?: Pipe,
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
      return { listen: to.incomingFd, send: await from.give(pipe!.writing) }
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
