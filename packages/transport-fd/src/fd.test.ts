import { execFileSync } from 'node:child_process'
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Channel, silentLogger } from '@ferryvm/core'
import { afterAll, describe, expect, it } from 'vitest'
import { fd } from './index.ts'
import { socketPair } from './socket-pair-testing.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-fd-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const context = (signal = new AbortController().signal) => ({ signal, log: silentLogger })
let names = 0
const newPath = () => join(folder, `f${names++}`)

async function incoming(number: number): Promise<Channel> {
  const listener = await fd().listen(number, context())
  for await (const channel of listener) {
    await listener[Symbol.asyncDispose]()
    return channel
  }
  throw new Error('no channel')
}
async function readAll(channel: Channel): Promise<Buffer> {
  const chunks: Buffer[] = []
  for (;;) {
    const into = Buffer.alloc(65_536)
    const count = await channel.read(into)
    if (count === 0) return Buffer.concat(chunks)
    chunks.push(into.subarray(0, count))
  }
}
/** Both ends of a pipe; opened for both, because opening one end waits for the other. */
function pipe(): [number, number] {
  const path = newPath()
  execFileSync('mkfifo', [path])
  const both = openSync(path, 'r+')
  const ends: [number, number] = [openSync(path, 'r'), openSync(path, 'w')]
  closeSync(both)
  return ends
}

describe('fd (protocol.md section 7)', () => {
  it('a pipe carries a stream one way, and its end is an end', async () => {
    const [r, w] = pipe()
    const input = await incoming(r)
    const out = await fd().connect(w, context())
    expect([...out.features, ...input.features]).toEqual([])
    const data = Buffer.alloc(1 << 20, 'pipe')
    const [got] = await Promise.all([
      readAll(input),
      (async () => {
        await out.write([data])
        await out.close()
      })(),
    ])
    expect(got.equals(data)).toBe(true)
    expect(await input.read(new Uint8Array(1))).toBe(0)
    await expect(input.write([Uint8Array.of(1)])).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    await input.close()
    await expect(input.shutdown('write')).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
    for (const number of [r, w]) expect(() => fstatSync(number)).toThrow('EBADF')
  })

  it('a pipe whose reader is gone fails writes', async () => {
    const [r, w] = pipe()
    closeSync(r)
    const out = await fd().connect(w, context())
    const failed = async () => {
      for (let i = 0; i < 10; i++) await out.write([new Uint8Array(65_536)])
    }
    await expect(failed()).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED', cause: { code: 'EPIPE' } })
    await out.close(new Error('failed'))
  })

  it('a file is written and read from where it stands', async () => {
    const path = newPath()
    writeFileSync(path, 'header')
    const out = await fd().connect(openSync(path, 'a'), context())
    await out.write([Buffer.from('stream')])
    await out.finish!()
    await expect(out.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    await out.close()
    expect(readFileSync(path, 'latin1')).toBe('headerstream')
    const input = await incoming(openSync(path, 'r'))
    expect((await readAll(input)).toString()).toBe('headerstream')
    await input.close()
  })

  it('a full disk is an error of the write', async () => {
    const out = await fd().connect(openSync('/dev/full', 'w'), context())
    await expect(out.write([new Uint8Array(1)])).rejects.toMatchObject({
      code: 'FERRY_CHANNEL_CLOSED',
      cause: { code: 'ENOSPC' },
    })
    await out.close()
  })

  it('a socket declares that somebody may answer', async () => {
    const [a, b] = await socketPair()
    const out = await fd().connect(a, context())
    expect([...out.features]).toEqual(['shutdown'])
    await out.close()
    closeSync(b)
  })

  it.each([
    ['monitor-name', 'names that a monitor was given (getfd) are not available'],
    ['', 'expected the number'],
    ['-1', 'expected the number'],
    ['3x', 'expected the number'],
    ['99999999999', 'expected the number'],
  ])('fd:%s is refused: %s', (text, problem) => {
    expect(() => fd().parseAddress(text)).toThrow(problem)
  })

  it('a descriptor that is not there, or is a directory, is refused', async () => {
    await expect(fd().connect(99_999, context())).rejects.toMatchObject({
      code: 'FERRY_FD_OPEN',
      message: 'cannot use descriptor 99999: this process has no such descriptor',
    })
    const directory = openSync(folder, 'r')
    await expect(fd().listen(directory, context())).rejects.toThrow('it is no socket, pipe or file')
    closeSync(directory)
  })

  it('a listener that is closed closes its descriptor; an aborted signal opens nothing', async () => {
    const number = openSync(folder + '/plain', 'w+')
    const aborted = AbortSignal.abort(new Error('not now'))
    await expect(fd().connect(number, context(aborted))).rejects.toThrow('not now')
    const listener = await fd().listen(number, context())
    await listener[Symbol.asyncDispose]()
    for await (const _ of listener) throw new Error('accepted after the end')
    expect(() => fstatSync(number)).toThrow('EBADF')
  })
})
