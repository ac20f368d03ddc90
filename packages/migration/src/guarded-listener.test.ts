import { type Channel, createChannelPair, isLoopback, type Listener, silentLogger } from '@ferryvm/core'
import { expect, it } from 'vitest'
import { type GuardOptions, guardedListener } from './guarded-listener.ts'

/** A listener that somebody connects to from an address of the test's choice. */
function setUp(options: Partial<GuardOptions> = {}) {
  const arrived: Channel[] = []
  let wake = () => {}
  let closed = false
  const listener: Listener<string> = {
    address: 'here',
    async *[Symbol.asyncIterator]() {
      while (!closed) {
        const next = arrived.shift()
        if (next) yield next
        else await new Promise<void>((resolve) => (wake = resolve))
      }
    },
    async [Symbol.asyncDispose]() {
      closed = true
      wake()
    },
  }
  const warnings: string[] = []
  const log = { ...silentLogger, warn: (message: string) => void warnings.push(message) }
  const context = { signal: new AbortController().signal, log }
  const guarded = guardedListener(
    listener,
    { plaintextFrom: 'loopback', silenceTimeoutMs: 60_000, ...options },
    context,
  )
  const channels = guarded[Symbol.asyncIterator]()
  return {
    warnings,
    guarded,
    next: async () => (await channels.next()).value as Channel | undefined,
    connect(remoteAddress?: string): Channel {
      const [near, far] = createChannelPair()
      arrived.push(remoteAddress === undefined ? far : Object.assign(far, { remoteAddress }))
      wake()
      return near
    },
  }
}
async function readAll(channel: Channel, count: number): Promise<string> {
  const bytes = new Uint8Array(count)
  for (let at = 0; at < count; ) at += await channel.read(bytes.subarray(at, at + 3))
  return new TextDecoder().decode(bytes)
}
const text = (words: string) => [new TextEncoder().encode(words)]

it.each([
  ['127.0.0.1', true],
  ['127.255.0.9', true],
  ['::1', true],
  ['::ffff:127.0.0.1', true],
  ['::FFFF:127.0.0.1', true],
  ['::ffff:10.0.0.1', false],
  ['192.0.2.7', false],
  ['1270.0.0.1', false],
  ['fe80::1', false],
  ['::', false],
])('%s is loopback: %s', (address, is) => expect(isLoopback(address)).toBe(is))

it('a guest from another host that comes unencrypted is refused, and the next one is taken whole', async () => {
  const { connect, next, warnings } = setUp()
  const accepting = next()
  const stranger = connect('192.0.2.7')
  expect(await Promise.resolve(stranger.read(new Uint8Array(1))).catch(() => 0)).toBe(0)
  expect(warnings).toEqual([
    expect.stringMatching(/^a connection from 192.0.2.7 was refused, .* set tls-creds on both ends/),
  ])
  const source = connect('127.0.0.1')
  await source.write(text('QEVM and more'))
  expect(await readAll((await accepting)!, 13)).toBe('QEVM and more')
})

it('if told, it is taken from anywhere', async () => {
  const { connect, next, warnings } = setUp({ plaintextFrom: 'anywhere' })
  const accepting = next()
  await connect('192.0.2.7').write(text('QEVM'))
  expect(await readAll((await accepting)!, 4)).toBe('QEVM')
  expect(warnings).toEqual([])
})

it('later connections of a migration are looked at too', async () => {
  const { connect, next, warnings } = setUp()
  await connect('::1').write(text('QEVM'))
  expect(await next()).toBeDefined()
  const accepting = next()
  connect('192.0.2.7')
  const second = connect('::1')
  const channel = await accepting
  // Although it has said nothing: the channel of postcopy requests is silent until one is made.
  await second.write(text('page'))
  expect(await readAll(channel!, 4)).toBe('page')
  expect(warnings).toHaveLength(1)
})

it('a connection that says nothing is dropped after a while, and does not keep the place of the source', async () => {
  const { connect, next, warnings } = setUp({ silenceTimeoutMs: 30 })
  const accepting = next()
  const mute = connect('127.0.0.1')
  expect(await Promise.resolve(mute.read(new Uint8Array(1))).catch(() => 0)).toBe(0)
  expect(warnings).toEqual(['a connection from 127.0.0.1 said nothing for 30 ms and was dropped'])
  await connect('127.0.0.1').write(text('QEVM'))
  expect(await readAll((await accepting)!, 4)).toBe('QEVM')
})

it('what is no network is taken as it comes, silent or not', async () => {
  const { connect, next } = setUp({ silenceTimeoutMs: 1 })
  connect()
  expect(await next()).toBeDefined()
})

it('a disposed listener ends, even while a connection is silent', async () => {
  const { connect, next, guarded } = setUp()
  const accepting = next()
  const mute = connect('127.0.0.1')
  await new Promise(setImmediate)
  await guarded[Symbol.asyncDispose]()
  expect(await Promise.resolve(mute.read(new Uint8Array(1))).catch(() => 0)).toBe(0)
  await accepting
  expect(await next()).toBeUndefined()
})
