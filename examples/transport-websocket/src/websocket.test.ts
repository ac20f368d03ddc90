import { once } from 'node:events'
import { transportCompliance } from '@ferryvm/compliance/transport'
import { FerryError, silentLogger } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { WebSocket } from 'ws'
import { websocket } from './index.ts'

transportCompliance(
  { describe, it },
  {
    create: websocket,
    address: () => '//127.0.0.1:0/guest',
    invalidAddresses: ['', '127.0.0.1:1', '//127.0.0.1', '//h:70000/', '//h:1/?q', '//user@h:1/', '//[::1:1/'],
  },
)

describe('ws:', () => {
  const context = () => ({ signal: new AbortController().signal, log: silentLogger })
  async function listening() {
    const transport = websocket()
    const listener = await transport.listen(transport.parseAddress('//127.0.0.1:0/guest'), context())
    const { port } = listener.address
    return { transport, listener, url: `ws://127.0.0.1:${port}/guest` }
  }

  it('knows where a connection comes from', async () => {
    const { transport, listener } = await listening()
    const [near, { value: far }] = await Promise.all([
      transport.connect(listener.address, context()),
      listener[Symbol.asyncIterator]().next(),
    ])
    expect(far.remoteAddress).toBe('127.0.0.1')
    await Promise.all([near.close(), far.close()])
    await listener[Symbol.asyncDispose]()
  })

  it.each([
    ['a page in a browser', (url: string) => new WebSocket(url, { origin: 'https://evil.example' })],
    ['another path', (url: string) => new WebSocket(`${url}/else`)],
  ])('%s is turned away', async (_, dial) => {
    const { listener, url } = await listening()
    const [error] = await once(dial(url), 'error')
    expect(String(error)).toMatch(/Unexpected server response: 40[01]/)
    await listener[Symbol.asyncDispose]()
  })

  it.each<[string, (socket: WebSocket) => void]>([
    ['text', (socket) => socket.send('hello')],
    ['a message that is too large', (socket) => socket.send(new Uint8Array(2 ** 20 + 1))],
    ['nothing, and goes', (socket) => socket.terminate()],
  ])('a peer that sends %s is an error of the channel', async (_, misbehave) => {
    const { listener, url } = await listening()
    const socket = new WebSocket(url)
    socket.on('error', () => {})
    const { value: channel } = await listener[Symbol.asyncIterator]().next()
    if (socket.readyState !== WebSocket.OPEN) await once(socket, 'open')
    misbehave(socket)
    const error = await Promise.resolve(channel.read(new Uint8Array(8))).catch((failure: unknown) => failure)
    expect(FerryError.isInstance(error) && error.code).toBe('FERRY_CHANNEL_CLOSED')
    await channel.close()
    await listener[Symbol.asyncDispose]()
  })

  it('an address in use is an error that names it', async () => {
    const { transport, listener } = await listening()
    await expect(transport.listen(listener.address, context())).rejects.toThrow(/cannot listen on ws:.*EADDRINUSE/)
    await listener[Symbol.asyncDispose]()
  })
})
