import { createQEMUFileReader, isSeekable, type SeekableChannel, silentLogger } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { http, https } from './index.ts'

const contents = Uint8Array.from({ length: 400_000 }, (_, i) => i * 7 + (i >> 8))

interface Answer {
  readonly status?: number
  readonly body?: Uint8Array<ArrayBuffer>
  readonly headers?: Record<string, string>
}

/** A server that has `contents`; `change` says what is different from the given answer on. */
function fakeServer(change: (request: number, from: number, to: number) => Answer | undefined = () => undefined) {
  const ranges: [number, number][] = []
  const fetch = async (_: unknown, init?: RequestInit): Promise<Response> => {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec((init!.headers as Record<string, string>).range!)!
    const [from, to] = [Number(first), Math.min(Number(last), contents.length - 1)]
    ranges.push([from, to])
    const { status = 206, body = contents.slice(from, to + 1), headers = {} } = change(ranges.length, from, to) ?? {}
    const standard = { etag: '"a"', 'content-range': `bytes ${from}-${to}/${contents.length}` }
    return new Response(body, { status, headers: { ...standard, ...headers } })
  }
  return { fetch: fetch as typeof globalThis.fetch, ranges }
}

async function open(server: ReturnType<typeof fakeServer>, signal = new AbortController().signal) {
  const transport = https({ fetch: server.fetch })
  const listener = await transport.listen(transport.parseAddress('//host/file'), { signal, log: silentLogger })
  const { value } = await listener[Symbol.asyncIterator]().next()
  expect(isSeekable(value)).toBe(true)
  return value as SeekableChannel
}

describe('a file on a server', () => {
  it('is read in order, with few requests, and at any place beside', async () => {
    const server = fakeServer()
    const file = await open(server)
    const reader = createQEMUFileReader(file)
    await reader.fill(300_000)
    const all = new Uint8Array(300_000)
    reader.getBuffer(all)
    expect(Buffer.compare(all, contents.subarray(0, 300_000))).toBe(0)
    expect(server.ranges.length).toBe(3)
    const part = new Uint8Array(5000)
    expect(await file.readAt(part, 397_000)).toBe(3000)
    expect(part.subarray(0, 3000)).toEqual(contents.subarray(397_000))
    expect(await file.readAt(part, 400_000)).toBe(0)
    file.seek(399_990)
    expect(await file.read(new Uint8Array(100))).toBe(10)
    expect(await file.read(new Uint8Array(100))).toBe(0)
    await file.close()
    await expect(file.readAt(part, 0)).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
    await expect(file.write([])).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
  })

  it.each<[string, string, Answer]>([
    ['comes whole', 'FERRY_HTTP_RANGE', { status: 200 }],
    ['is another part', 'FERRY_HTTP_RANGE', { headers: { 'content-range': 'bytes 1-2/400000' } }],
    ['is compressed', 'FERRY_HTTP_RANGE', { headers: { 'content-encoding': 'gzip' } }],
    ['is longer than asked for', 'FERRY_HTTP_RANGE', { body: new Uint8Array(300_000) }],
    ['is missing', 'FERRY_HTTP_REQUEST', { status: 404 }],
    ['is behind the end', 'FERRY_HTTP_RANGE', { status: 416, headers: { 'content-range': 'bytes */0' } }],
    ['is cut', 'FERRY_HTTP_REQUEST', { body: new Uint8Array(3) }],
  ])('that %s is a typed error', async (_, code, answer) => {
    await expect(open(fakeServer(() => answer))).rejects.toMatchObject({ code })
  })

  it.each<[string, Answer]>([
    ['ETag', { headers: { etag: '"b"' } }],
    ['size', { headers: { 'content-range': 'bytes 200000-200009/400001' } }],
    ['size, in a refusal', { status: 416, headers: { 'content-range': 'bytes */7' } }],
  ])('whose %s changes is noticed', async (_, answer) => {
    const file = await open(fakeServer((request) => (request > 1 ? answer : undefined)))
    const reading = file.readAt(new Uint8Array(10), 200_000)
    await expect(reading).rejects.toMatchObject({ code: 'FERRY_HTTP_CHANGED' })
  })

  it('is asked again after half an answer and a busy server', async () => {
    const bad: Answer[] = [{}, { body: new Uint8Array(4) }, { status: 503 }]
    const server = fakeServer((request) => bad[request - 1])
    const file = await open(server)
    const part = new Uint8Array(10)
    expect(await file.readAt(part, 200_000)).toBe(10)
    expect(part).toEqual(contents.subarray(200_000, 200_010))
    expect(server.ranges.length).toBe(4)
  })

  it('ends with the migration that wanted it', async () => {
    const abort = new AbortController()
    const file = await open(fakeServer(), abort.signal)
    abort.abort(new Error('enough'))
    await expect(file.readAt(new Uint8Array(10), 200_000)).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
  })
})

describe('addresses', () => {
  it('are URLs, and unencrypted ones only of this host', async () => {
    expect(http().parseAddress('//127.0.0.1:8080/a')).toBe('//127.0.0.1:8080/a')
    expect(http().parseAddress('//[::1]/a')).toBe('//[::1]/a')
    expect(http({ allowPlaintext: true }).parseAddress('//example.org/a')).toBe('//example.org/a')
    for (const text of ['//example.org/a', '//127.example.org/a']) {
      expect(() => http().parseAddress(text)).toThrow('comes over https:')
    }
    for (const text of ['', 'host/a', '//']) {
      expect(() => https().parseAddress(text)).toThrow(expect.objectContaining({ code: 'FERRY_HTTP_ADDRESS' }))
    }
    const context = { signal: new AbortController().signal, log: silentLogger }
    await expect(https().connect('//host/a', context)).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
  })
})
