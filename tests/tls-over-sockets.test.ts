/** TLS over sockets of Node itself, which it takes from the channel below: the kit of every transport, and the ends of such a channel. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { transportCompliance } from '@ferryvm/compliance/transport'
import { type Channel, silentLogger, withLayer } from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import { tcp, unix } from '@ferryvm/transport-socket'
import { loadTlsCredentials, tls } from '@ferryvm/transport-tls'
import { initTlsFolder } from '@ferryvm/transport-tls/pki'
import { afterAll, describe, expect, it } from 'vitest'

const dir = mkdtempSync(join(tmpdir(), 'ferry-tls-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
await initTlsFolder(dir, { hosts: ['here.example'] })
writeFileSync(join(dir, 'keys.psk'), 'qemu:00112233445566778899aabbccddeeff\n')

const layerOf = async (kind: 'x509' | 'psk' | 'anon', priority?: string) =>
  tls({
    hostname: 'here.example',
    credentials: await Promise.all([
      loadTlsCredentials({ kind, dir, endpoint: 'client', priority }),
      loadTlsCredentials({ kind, dir, endpoint: 'server', priority }),
    ]),
  })
const context = () => ({ signal: new AbortController().signal, log: silentLogger })

let paths = 0
for (const kind of ['x509', 'psk', 'anon'] as const) {
  const layer = await layerOf(kind)
  describe(`tls with ${kind} over tcp`, () => {
    transportCompliance({ describe, it }, { create: () => withLayer(tcp(), layer), address: () => '127.0.0.1:0' })
  })
}
const layer = await layerOf('x509')
describe('tls over unix', () => {
  transportCompliance(
    { describe, it },
    { create: () => withLayer(unix(), layer), address: () => join(dir, `${++paths}.sock`) },
  )
})
describe('TLS 1.3 over tcp', async () => {
  const newer = await layerOf('x509', 'NORMAL:-VERS-TLS1.2')
  transportCompliance({ describe, it }, { create: () => withLayer(tcp(), newer), address: () => '127.0.0.1:0' })
})

/** Two ends of a TCP connection, not wrapped yet, and the socket below the first. */
async function pairOfSockets(): Promise<{ here: Channel; socket: Socket; there: Channel }> {
  const listener = await tcp().listen(tcp().parseAddress('127.0.0.1:0'), context())
  const socket = connect({ port: listener.address.port, host: '127.0.0.1', allowHalfOpen: true })
  await new Promise((resolve) => socket.once('connect', resolve))
  const { value: there } = await listener[Symbol.asyncIterator]().next()
  await listener[Symbol.asyncDispose]()
  return { here: fromDuplex(socket), socket, there }
}

describe('a socket that TLS has taken', () => {
  it('is encrypted by Node itself: the channel below was given away', async () => {
    const { here, there } = await pairOfSockets()
    const [a, b] = await Promise.all([layer.wrap(here, 'client', context()), layer.wrap(there, 'server', context())])
    await expect(here.write([new Uint8Array(1)])).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
    expect(there.detach?.()).toBeUndefined()
    await a.write([Uint8Array.of(1, 2, 3)])
    const into = new Uint8Array(8)
    expect(await b.read(into)).toBe(3)
    await Promise.all([a.close(), b.close()])
  })

  it('a connection that is cut before a word is an error, one that is closed is an end', async () => {
    for (const cut of [true, false]) {
      const { here, socket, there } = await pairOfSockets()
      const [a, b] = await Promise.all([layer.wrap(here, 'client', context()), layer.wrap(there, 'server', context())])
      if (cut) socket.destroy()
      else await a.shutdown('write')
      const read = Promise.resolve(b.read(new Uint8Array(1)))
      if (cut) await expect(read).rejects.toThrow(/closed the connection after the handshake without a word/)
      else expect(await read).toBe(0)
      await Promise.all([a.close(), b.close()])
    }
  })

  it('a connection that ends within the handshake is an error at once, on both sides', async () => {
    for (const role of ['client', 'server'] as const) {
      const { socket, there } = await pairOfSockets()
      const wrapping = layer.wrap(there, role, context())
      socket.end(Uint8Array.of(22, 3, 1))
      await expect(wrapping).rejects.toMatchObject({ code: 'FERRY_TLS_HANDSHAKE' })
      socket.destroy()
    }
  })

  it('a handshake that never ends is given up, and the connection with it', async () => {
    for (const role of ['client', 'server'] as const) {
      const { socket, there } = await pairOfSockets()
      const credentials = await loadTlsCredentials({ kind: 'x509', dir, endpoint: role })
      const hasty = tls({ hostname: 'here.example', credentials, handshakeTimeoutMs: 50 })
      const closed = new Promise((resolve) => socket.once('close', resolve))
      socket.on('error', () => {}).on('end', () => socket.destroy())
      await expect(hasty.wrap(there, role, context())).rejects.toThrow('did not finish the handshake within 50 ms')
      socket.resume()
      await closed
    }
  })
})
