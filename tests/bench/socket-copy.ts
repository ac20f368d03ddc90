/**
 * The least that precopy could cost: as many bytes from one process's memory to another's over TCP, and nothing else.
 * Run as a program it is the receiving process.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'

const CHUNK_BYTES = 256 * 1024

/** @returns seconds from the first write to the receiver's word that it has everything */
export async function copyOverSocket(bytes: number): Promise<number> {
  const memory = new Uint8Array(new SharedArrayBuffer(bytes)).fill(1)
  const receiver = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', import.meta.filename, String(bytes)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  try {
    const [port] = await once(receiver.stdout, 'data')
    const socket = connect(Number(String(port)), '127.0.0.1')
    await once(socket, 'connect')
    const began = performance.now()
    const acknowledged = once(socket, 'data')
    for (let at = 0; at < bytes; at += CHUNK_BYTES) {
      if (!socket.write(memory.subarray(at, at + CHUNK_BYTES))) await once(socket, 'drain')
    }
    await acknowledged
    socket.destroy()
    return (performance.now() - began) / 1000
  } finally {
    receiver.kill()
  }
}

if (process.argv[1] === import.meta.filename) {
  const bytes = Number(process.argv[2])
  // Not touched before, like the memory of a machine that waits for its guest.
  const memory = new Uint8Array(new SharedArrayBuffer(bytes))
  let at = 0
  const server = createServer((socket) => {
    socket.on('data', (chunk) => {
      memory.set(chunk, at)
      at += chunk.length
      if (at === bytes) socket.end('!')
    })
    socket.on('close', () => server.close())
  })
  server.listen(0, '127.0.0.1', () => {
    const address = server.address()
    if (address && typeof address === 'object') process.stdout.write(`${address.port}\n`)
  })
}
