import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The Sockets that first owned them: they must never be collected, or they would close descriptors that are others' by then. */
const owners: Socket[] = []

/** Two descriptors of this process that are connected sockets. */
export async function socketPair(): Promise<[number, number]> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-pair-'))
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  await new Promise<void>((resolve) => server.listen(join(folder, 's'), resolve))
  const near = new Socket({ allowHalfOpen: true })
  near.pause() // so that it never reads
  const [far] = await Promise.all([
    new Promise<Socket>((resolve) => server.once('connection', resolve)),
    new Promise<void>((resolve) => near.connect(join(folder, 's'), resolve)),
  ])
  server.close()
  rmSync(folder, { recursive: true, force: true })
  owners.push(near, far)
  return [descriptorOf(near), descriptorOf(far)]
}

const descriptorOf = (socket: Socket): number => (socket as unknown as { _handle: { fd: number } })._handle.fd
