import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Channel, type Listener, silentLogger, type Transport } from '@ferryvm/core'
import { afterAll, describe, expect, it } from 'vitest'
import { tcp, unix } from './index.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-socket-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const context = (signal = new AbortController().signal) => ({ signal, log: silentLogger })
let names = 0

async function connected(transport: Transport<any>, text: string) {
  const listener: Listener<any> = await transport.listen(transport.parseAddress(text), context())
  const [near, far] = await Promise.all([
    transport.connect(listener.address, context()),
    (async () => {
      for await (const channel of listener) return channel
      throw new Error('no connection')
    })(),
  ])
  return { near, far: far as Channel, listener }
}
async function readAll(channel: Channel, want: number): Promise<Uint8Array> {
  const all = new Uint8Array(want)
  for (let at = 0; at < want; ) {
    const n = await channel.read(all.subarray(at))
    if (n === 0) return all.subarray(0, at)
    at += n
  }
  return all
}

for (const [name, transport, text] of [
  ['tcp', tcp(), () => '127.0.0.1:0'],
  ['unix', unix(), () => join(folder, `s${names++}`)],
] as const) {
  describe(name, () => {
    it('moves bytes both ways, half-closes, and ends with 0', async () => {
      const { near, far, listener } = await connected(transport, text())
      await near.write([new Uint8Array([1, 2]), new Uint8Array(0), new Uint8Array([3])])
      await near.shutdown('write')
      expect([...(await readAll(far, 3))]).toEqual([1, 2, 3])
      expect(await far.read(new Uint8Array(1))).toBe(0)
      await far.write([new Uint8Array([9])])
      expect([...(await readAll(near, 1))]).toEqual([9])
      await near.close()
      await far.close()
      await listener[Symbol.asyncDispose]()
    })

    it('sends views of shared memory as they are, and waits while the peer does not read', async () => {
      const { near, far, listener } = await connected(transport, text())
      const shared = new Uint8Array(new SharedArrayBuffer(32 << 20))
      for (let i = 0; i < shared.length; i += 4096) shared[i] = (i >> 12) & 0xff
      let settled = false
      const writing = Promise.resolve(near.write([shared])).then(() => (settled = true))
      await new Promise((resolve) => setTimeout(resolve, 50))
      expect(settled).toBe(false)
      const got = await readAll(far, shared.length)
      await writing
      expect(Buffer.compare(got, Buffer.from(shared))).toBe(0)
      await near.close()
      await far.close()
      await listener[Symbol.asyncDispose]()
    })

    it('a close with a reason rejects what waits on both sides', async () => {
      const { near, far, listener } = await connected(transport, text())
      const waiting = near.read(new Uint8Array(1))
      const big = near.write([new Uint8Array(64 << 20)])
      const reason = new Error('enough')
      const failed = Promise.all([
        expect(waiting).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED', cause: reason }),
        expect(big).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED', cause: reason }),
      ])
      await near.close(reason)
      await failed
      await expect(near.read(new Uint8Array(1))).rejects.toMatchObject({ cause: reason })
      // What arrived before may still be read; then it ends, one way or the other, and does not hang.
      await readAll(far, 64 << 20).catch((e) => expect(e).toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' }))
      await far.close()
      await listener[Symbol.asyncDispose]()
    })

    it('a listener that is closed ends its loop and frees the address; waiting connections are dropped', async () => {
      const address = transport.parseAddress(text()) as never
      const listener: Listener<any> = await transport.listen(address, context())
      const early = await transport.connect(listener.address, context())
      await listener[Symbol.asyncDispose]()
      for await (const _ of listener) throw new Error('accepted after the end')
      expect(await Promise.resolve(early.read(new Uint8Array(1))).catch(() => 0)).toBe(0)
      await early.close()
      await expect(transport.connect(listener.address, context())).rejects.toMatchObject({
        code: 'FERRY_SOCKET_CONNECT',
      })
      const again: Listener<any> = await transport.listen(listener.address, context())
      await again[Symbol.asyncDispose]()
    })

    it('an address in use is an error that names it', async () => {
      const first: Listener<any> = await transport.listen(transport.parseAddress(text()) as never, context())
      await expect(transport.listen(first.address, context())).rejects.toMatchObject({
        code: 'FERRY_SOCKET_LISTEN',
        message: expect.stringContaining('the address is in use'),
      })
      await first[Symbol.asyncDispose]()
    })

    it('connect gives up when told to', async () => {
      const aborted = AbortSignal.abort(new Error('not now'))
      const address = transport.parseAddress(text().replace(/:0$/, ':1')) as never
      await expect(transport.connect(address, context(aborted))).rejects.toThrow('not now')
    })
  })
}

describe('tcp', () => {
  it('without an address listens for this host only, and says so', async () => {
    const warnings: string[] = []
    const log = { ...silentLogger, warn: (message: string) => void warnings.push(message) }
    const transport = tcp()
    const listener = await transport.listen(transport.parseAddress(':0'), { ...context(), log })
    expect(listener.address).toMatchObject({ host: '127.0.0.1' })
    expect(warnings).toEqual([expect.stringMatching(/^tcp::0 listens for this host only; .*0.0.0.0 for all/)])
    const [near, { value: far }] = await Promise.all([
      transport.connect(listener.address, context()),
      listener[Symbol.asyncIterator]().next(),
    ])
    expect([near.remoteAddress, far.remoteAddress]).toEqual(['127.0.0.1', '127.0.0.1'])
    await Promise.all([near.close(), far.close(), listener[Symbol.asyncDispose]()])
  })

  it('reports the port that an ephemeral request got, and takes the next one of a range', async () => {
    const transport = tcp()
    const first = await transport.listen(transport.parseAddress('127.0.0.1:0'), context())
    expect(first.address.port).toBeGreaterThan(0)
    const { port } = first.address
    const second = await transport.listen(transport.parseAddress(`127.0.0.1:${port},to=${port + 20}`), context())
    expect(second.address.port).toBeGreaterThan(port)
    await first[Symbol.asyncDispose]()
    await second[Symbol.asyncDispose]()
  })

  it('a connect that hangs is cut short by its signal', async () => {
    // A server whose backlog is full does not answer.
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', 1, resolve))
    const { port } = server.address() as { port: number }
    const controller = new AbortController()
    const address = { kind: 'tcp', host: '192.0.2.1', port } as const // TEST-NET: never answers
    const dialing = tcp().connect(address, context(controller.signal))
    setTimeout(() => controller.abort(new Error('changed my mind')), 20)
    await expect(dialing).rejects.toMatchObject({ code: 'FERRY_SOCKET_CONNECT' })
    server.close()
  })

  it('refused and unknown hosts say so', async () => {
    const transport = tcp()
    await expect(transport.connect(transport.parseAddress('127.0.0.1:1'), context())).rejects.toThrow(
      'connection refused',
    )
    await expect(transport.connect(transport.parseAddress(':1'), context())).rejects.toThrow('no host is named')
    await expect(transport.connect(transport.parseAddress('h:0'), context())).rejects.toThrow(
      'port 0 is only for listening',
    )
  })
})

describe('unix', () => {
  it('replaces a socket file that nobody listens on, and no other file', async () => {
    const transport = unix()
    const path = join(folder, 'stale')
    const { spawnSync } = await import('node:child_process')
    // A process that dies without closing leaves the file behind.
    spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ])
    expect(existsSync(path)).toBe(true)
    const listener = await transport.listen(transport.parseAddress(path), context())
    await listener[Symbol.asyncDispose]()
    const file = join(folder, 'precious')
    writeFileSync(file, 'data')
    await expect(transport.listen(transport.parseAddress(file), context())).rejects.toThrow(
      'a file that is not a socket is in the way',
    )
    expect(existsSync(file)).toBe(true)
  })
})

describe('unix', () => {
  it('names a folder that is not there', async () => {
    const address = unix().parseAddress(join(folder, 'nowhere', 'socket'))
    await expect(unix().listen(address, context())).rejects.toMatchObject({
      code: 'FERRY_SOCKET_LISTEN',
      message: expect.stringMatching(/nowhere.socket: no such file or directory$/),
    })
  })
})
