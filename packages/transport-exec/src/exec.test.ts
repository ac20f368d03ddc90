import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Channel, silentLogger } from '@ferryvm/core'
import { afterAll, describe, expect, it } from 'vitest'
import { exec } from './index.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-exec-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const context = (signal = new AbortController().signal) => ({ signal, log: silentLogger })
const MiB = 2 ** 20

async function readAll(channel: Channel): Promise<Buffer> {
  const chunks: Buffer[] = []
  for (;;) {
    const into = Buffer.alloc(65_536)
    const count = await channel.read(into)
    if (count === 0) return Buffer.concat(chunks)
    chunks.push(into.subarray(0, count))
  }
}
async function incoming(command: string) {
  const listener = await exec().listen(command, context())
  const { value } = await listener[Symbol.asyncIterator]().next()
  return { listener, channel: value as Channel }
}

describe('exec (protocol.md section 7)', () => {
  it('writes through a command and reads through another; finish waits for the command', async () => {
    const path = join(folder, 'data')
    const out = await exec().connect(`sleep 0.2; cat > '${path}'`, context())
    const shared = new Uint8Array(new SharedArrayBuffer(3 * MiB)).map((_, i) => i >> 12)
    await out.write([shared, Uint8Array.of(1, 2, 3)])
    await out.finish!()
    expect(readFileSync(path)).toHaveLength(3 * MiB + 3)
    await out.close()

    const { channel, listener } = await incoming(`cat '${path}'`)
    expect((await readAll(channel)).equals(readFileSync(path))).toBe(true)
    await channel.close()
    await listener[Symbol.asyncDispose]()
  })

  it('is no half-close: the engine must not wait for an answer', async () => {
    expect(exec().features.has('shutdown')).toBe(false)
    const channel = await exec().connect('cat', context())
    await expect(channel.shutdown('write')).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    await channel.write([Uint8Array.of(5)])
    const into = new Uint8Array(4)
    expect([await channel.read(into), into[0]]).toEqual([1, 5])
    await channel.close()
  })

  it('a command that fails after the last byte fails finish', async () => {
    const channel = await exec().connect('cat > /dev/null; exit 3', context())
    await channel.write([new Uint8Array(1000)])
    await expect(channel.finish!()).rejects.toMatchObject({
      code: 'FERRY_EXEC_STATUS',
      status: 3,
      message: 'the command "cat > /dev/null; exit 3" ended with status 3',
    })
    await channel.close(new Error('failed'))
  })

  it('a command that runs on counts as a success', async () => {
    const channel = await exec({ graceMs: 50 }).connect('cat > /dev/null; sleep 0.5', context())
    await channel.write([new Uint8Array(1000)])
    await channel.finish!()
    await channel.close()
  })

  it.each([
    ['exit 7', 'ended with status 7 before it had read everything'],
    ['no-such-command-here 2> /dev/null', 'the shell did not find it'],
    ['kill -9 $$', 'was ended by SIGKILL before'],
    ['head -c 10 > /dev/null', 'does not read any further'],
  ])('a command that ends before the data: %s', async (command, message) => {
    const channel = await exec().connect(command, context())
    const writing = (async () => {
      for (let i = 0; i < 100; i++) await channel.write([new Uint8Array(65_536)])
    })()
    await expect(writing).rejects.toMatchObject({
      code: 'FERRY_CHANNEL_CLOSED',
      message: expect.stringContaining(message),
    })
    await channel.close(new Error('failed'))
  })

  it('output that ends by a failure is no end of stream', async () => {
    const { channel, listener } = await incoming('printf abc; exit 2')
    const into = new Uint8Array(10)
    let count = 0
    while (count < 3) count += await channel.read(into.subarray(count))
    await expect(channel.read(into)).rejects.toMatchObject({
      code: 'FERRY_CHANNEL_CLOSED',
      cause: { code: 'FERRY_EXEC_STATUS', status: 2 },
    })
    await channel.close()
    await listener[Symbol.asyncDispose]()
  })

  it('a migration that is given up ends its command', async () => {
    const path = join(folder, 'after')
    const channel = await exec({ graceMs: 300 }).connect(`trap '' TERM; sleep 1; echo > '${path}'`, context())
    const reason = new Error('cancelled')
    const reading = expect(channel.read(new Uint8Array(1))).rejects.toMatchObject({
      code: 'FERRY_CHANNEL_CLOSED',
      cause: reason,
    })
    await channel.close(reason)
    await reading
    await expect(channel.write([new Uint8Array(1)])).rejects.toMatchObject({ cause: reason })
    await new Promise((resolve) => setTimeout(resolve, 1200))
    expect(existsSync(path)).toBe(false)
  })

  it('a listener that is closed before anybody accepts ends its command and its loop', async () => {
    const listener = await exec({ graceMs: 300 }).listen('exec sleep 100', context())
    const began = Date.now()
    await listener[Symbol.asyncDispose]()
    expect(Date.now() - began).toBeLessThan(5000)
    for await (const _ of listener) throw new Error('accepted after the end')
  })

  it('refuses what is no command, and an aborted signal', async () => {
    expect(() => exec().parseAddress(' ')).toThrow('a shell command has to follow')
    expect(() => exec().parseAddress('a\0b')).toThrow('zero byte')
    const aborted = AbortSignal.abort(new Error('not now'))
    await expect(exec().connect('echo', context(aborted))).rejects.toThrow('not now')
  })
})
