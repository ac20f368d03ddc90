import { type Channel, createChannelPair, FerryError } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { NbdDisk, NbdServer, nbdExportNames } from './index.ts'
import { memoryDisk, pattern } from './nbd-testing.ts'

const MiB = 2 ** 20

/** A server with one export, and a client of it. */
async function setUp(bytes = pattern(4 * MiB), { writable = true } = {}) {
  const [here, there] = createChannelPair()
  const backend = memoryDisk(bytes)
  const server = new NbdServer()
  server.add({ name: 'disk', description: 'for tests', backend, writable })
  const served = server.serve(there)
  const disk = await NbdDisk.open(here, { exportName: 'disk' })
  return { server, served, disk, backend, bytes }
}

describe('our client with our server', () => {
  it('reads and writes what the disk has, in requests that overlap', async () => {
    const { disk, bytes, backend } = await setUp()
    expect(disk.capacityBytes).toBe(bytes.length)
    const parts = Array.from({ length: 64 }, (_, i) => new Uint8Array(4096 * (1 + (i % 3))))
    await Promise.all(parts.map((part, i) => disk.read(i * 16384, part)))
    for (const [i, part] of parts.entries()) expect(part).toEqual(bytes.slice(i * 16384, i * 16384 + part.length))
    await Promise.all(parts.map((part, i) => disk.write(i * 16384, part.fill(i))))
    for (const [i, part] of parts.entries()) expect(bytes.slice(i * 16384, i * 16384 + part.length)).toEqual(part)
    await disk.flush()
    expect(backend.flushes).toBe(1)
    await disk.close()
  })

  it('splits what is more than a request carries', async () => {
    const { disk, bytes } = await setUp(pattern(34 * MiB))
    const all = new Uint8Array(34 * MiB)
    await disk.read(0, all)
    expect(Buffer.compare(all, bytes)).toBe(0)
    await disk.write(MiB, all.fill(3, 0, 33 * MiB).subarray(0, 33 * MiB))
    expect(bytes.subarray(MiB, 34 * MiB).every((byte) => byte === 3)).toBe(true)
  })

  it('says where zeros are, erases, and reads holes as zeros', async () => {
    const { disk, bytes } = await setUp()
    await disk.writeZeroes(MiB, MiB)
    await disk.discard(3 * MiB, 512)
    expect(await disk.runAt!(0, 4 * MiB)).toEqual({ bytes: MiB, kind: 'data' })
    expect(await disk.runAt!(MiB, 4096)).toEqual({ bytes: 4096, kind: 'zero' })
    expect(bytes.subarray(MiB, 2 * MiB).every((byte) => byte === 0)).toBe(true)
    const into = new Uint8Array(1024).fill(9)
    await disk.read(3 * MiB, into)
    expect(into.subarray(0, 512).every((byte) => byte === 0)).toBe(true)
  })

  it('answers a request that cannot be with an error, and goes on', async () => {
    const { disk, bytes } = await setUp()
    await expect(disk.write(bytes.length - 512, new Uint8Array(1024))).rejects.toMatchObject({
      code: 'FERRY_NBD_REQUEST',
      errno: 28,
    })
    await expect(disk.read(bytes.length, new Uint8Array(512))).rejects.toMatchObject({ errno: 22 })
    await expect(disk.read(100, new Uint8Array(512))).rejects.toMatchObject({ errno: 22 })
    await disk.read(0, new Uint8Array(512))
    const { disk: readOnly, bytes: kept } = await setUp(pattern(MiB), { writable: false })
    expect(readOnly.readOnly).toBe(true)
    await expect(readOnly.write(0, new Uint8Array(512))).rejects.toMatchObject({ errno: 1 })
    expect(kept).toEqual(pattern(MiB))
  })

  it('passes on what went wrong below: a full disk, a broken one', async () => {
    const { disk, backend } = await setUp()
    backend.write = async () => {
      throw new Error('cannot write', { cause: Object.assign(new Error('no space'), { code: 'ENOSPC' }) })
    }
    await expect(disk.write(0, new Uint8Array(512))).rejects.toMatchObject({ errno: 28 })
    backend.read = async () => {
      throw new Error('the medium broke')
    }
    await expect(disk.read(0, new Uint8Array(512))).rejects.toThrow(/the medium broke/)
  })

  it('lists exports, and refuses those that there are not', async () => {
    const { server } = await setUp()
    server.add({ name: 'other', backend: memoryDisk(new Uint8Array(512)), writable: true })
    const connect = () => {
      const [here, there] = createChannelPair()
      void server.serve(there)
      return here
    }
    expect(await nbdExportNames(connect())).toEqual(['disk', 'other'])
    await expect(NbdDisk.open(connect(), { exportName: 'none' })).rejects.toMatchObject({
      code: 'FERRY_NBD_REFUSED',
      exportName: 'none',
    })
    // The empty name would be the only one.
    await expect(NbdDisk.open(connect())).rejects.toThrow(/no such export/)
    expect(() => server.add({ name: 'disk', backend: memoryDisk(new Uint8Array(512)), writable: true })).toThrow(
      /already/,
    )
  })

  it('cuts off who uses an export that is taken away, once its requests are over', async () => {
    const { server, served, disk, backend } = await setUp()
    const written = Promise.withResolvers<void>()
    backend.write = () => written.promise
    const write = disk.write(0, new Uint8Array(512)).catch((error: unknown) => error)
    await disk.read(0, new Uint8Array(512)) // the write is on its way
    let removed = false
    const removal = server.remove('disk').then(() => void (removed = true))
    expect(FerryError.isInstance(await write)).toBe(true)
    expect(removed).toBe(false)
    written.resolve()
    await removal
    await served
    await expect(disk.read(0, new Uint8Array(512))).rejects.toThrow()
    expect(server.connections('disk')).toBe(0)
  })

  it('fails what waits for a server that does not answer, when it is yanked', async () => {
    const { disk, backend } = await setUp()
    backend.read = () => new Promise(() => {})
    const read = disk.read(0, new Uint8Array(512))
    expect(disk.inFlight).toBe(1)
    disk.yank(new Error('enough'))
    await expect(read).rejects.toThrow('enough')
    await expect(disk.flush()).rejects.toThrow('enough')
  })
})

describe('a server with a bad client', () => {
  const u32 = (n: number) => [n >>> 24, (n >> 16) & 255, (n >> 8) & 255, n & 255]
  const IHAVEOPT = [...Buffer.from('IHAVEOPT')]
  const option = (number: number, data: readonly number[], length = data.length) => [
    ...IHAVEOPT,
    ...u32(number),
    ...u32(length),
    ...data,
  ]
  const HELLO = u32(3)
  const name = [...u32(4), ...Buffer.from('disk')]
  const GO = option(7, [...name, 0, 0])
  const request = (type: number, { flags = 0, offset = 0, length = 512, magic = 0x25609513 }) => [
    ...u32(magic),
    ...[flags >> 8, flags & 255, type >> 8, type & 255],
    ...[0, 0, 0, 0, 0, 0, 0, 7],
    ...[...u32(Math.floor(offset / 2 ** 32)), ...u32(offset % 2 ** 32)],
    ...u32(length),
  ]

  async function speak(bytes: readonly number[], { gone = true } = {}) {
    const warnings: string[] = []
    const log = { debug() {}, guestError() {}, warn: (message: string) => void warnings.push(message) }
    const [here, there] = createChannelPair()
    const server = new NbdServer({ log, handshakeTimeoutMs: 100 })
    const disk = new Uint8Array(4096)
    server.add({ name: 'disk', backend: memoryDisk(disk), writable: true })
    const served = server.serve(there)
    await Promise.resolve(here.write([Uint8Array.from(bytes)])).catch(() => {})
    if (gone) await here.shutdown('write').catch(() => {})
    const answer: number[] = []
    const into = new Uint8Array(65536)
    for (;;) {
      const count = await Promise.resolve(here.read(into)).catch(() => 0)
      if (count === 0) break
      answer.push(...into.subarray(0, count))
    }
    await served
    return { answer, warnings, disk }
  }

  it.each([
    ['flags of a later protocol', [...u32(0xff)], /client flags/],
    ['something else than an option', [...HELLO, ...Buffer.from('GET / HTTP/1.1\r\n')], /option magic/],
    ['an option of 4 GB', [...HELLO, ...option(3, [], 0xffffffff)], /option length.*offset 20/],
    ['no export of that name, where nobody can say no', [...HELLO, ...option(1, [120])], /there is no export "x"/],
    ['an option that ends early', [...HELLO, ...option(7, name, 64)], /the stream ended/],
    ['a request that is none', [...HELLO, ...GO, ...request(0, { magic: 7 })], /request magic: 0x7/],
    ['a write of 1 GB', [...HELLO, ...GO, ...request(1, { length: 2 ** 30 })], /length: a write of 1073741824/],
    ['a write that ends early', [...HELLO, ...GO, ...request(1, {}), 1, 2, 3], /the stream ended/],
  ])('%s: is cut off, and nothing is written', async (_, bytes, wanted) => {
    const { warnings, disk } = await speak(bytes)
    expect(warnings.join()).toMatch(wanted)
    expect(disk.every((byte) => byte === 0)).toBe(true)
  })

  it('says nothing: is cut off after a while', async () => {
    const { answer } = await speak([], { gone: false })
    expect(Buffer.from(answer).toString('latin1')).toBe('NBDMAGICIHAVEOPT\0\x03')
  })

  it.each([
    ['a command that there is not', request(99, {}), 22],
    ['a block status that was not agreed on', request(7, {}), 22],
    ['a flag that the command has not', request(0, { flags: 1 }), 22],
    ['an offset of 2^63', request(0, { offset: 2 ** 63 }), 22],
    ['a length beyond the end', request(4, { length: 8192 }), 22],
    ['half a sector', request(0, { offset: 256, length: 256 }), 22],
  ])('%s: gets an error, and the next request its answer', async (_, bytes, errno) => {
    const { answer } = await speak([...HELLO, ...GO, ...bytes, ...request(3, { length: 0 })])
    const replies = Buffer.from(answer.slice(-32))
    expect([replies.readUInt32BE(0), replies.readUInt32BE(4), replies.readUInt32BE(16 + 4)]).toEqual([
      0x67446698,
      errno,
      0,
    ])
  })
})

describe('a client with a bad server', () => {
  const bytes = (...parts: (string | number | bigint | Uint8Array)[]): Uint8Array =>
    Buffer.concat(
      parts.map((part) => {
        if (typeof part === 'string') return Buffer.from(part, 'latin1')
        if (typeof part === 'object') return part
        const buffer = Buffer.alloc(typeof part === 'bigint' ? 8 : 4)
        if (typeof part === 'bigint') buffer.writeBigUInt64BE(part)
        else buffer.writeUInt32BE(part)
        return buffer
      }),
    )
  const REPLY = 0x0003e889045565a9n
  const HELLO = 'NBDMAGICIHAVEOPT\0\x03'
  const reply = (option: number, type: number, data: Uint8Array = new Uint8Array(0), length = data.length) =>
    bytes(REPLY, option, type, length, data)
  const STRUCTURED = reply(8, 1)
  const CONTEXT = bytes(reply(10, 4, bytes(1, 'base:allocation')), reply(10, 1))
  const info = (size: bigint, flags = '\0\x05') => reply(7, 3, bytes('\0\0', size, flags))
  const GO = bytes(info(65536n), reply(7, 1))
  /** Until the first request, which has the handle 1. */
  const AGREED = bytes(HELLO, STRUCTURED, CONTEXT, GO)
  const chunk = (type: number, payload: Uint8Array, { done = 1, handle = 1n, length = payload.length } = {}) =>
    bytes(0x668e33ef, `\0${String.fromCharCode(done)}`, `\0${String.fromCharCode(type)}`, handle, length, payload)

  /** What a read of 1024 bytes from it comes to. */
  async function readFrom(said: Uint8Array): Promise<unknown> {
    const [here, there] = createChannelPair()
    void Promise.resolve(there.write([said])).catch(() => {})
    void drain(there)
    await there.shutdown('write')
    try {
      const disk = await NbdDisk.open(here)
      await disk.read(4096, new Uint8Array(1024))
    } catch (error) {
      return error
    }
    return undefined
  }
  async function drain(channel: Channel): Promise<void> {
    const into = new Uint8Array(4096)
    while ((await Promise.resolve(channel.read(into)).catch(() => 0)) > 0);
  }
  const data = (offset: bigint, length: number) => bytes(offset, new Uint8Array(length))

  it.each([
    ['is none', bytes('HTTP/1.1 400 Bad Request'), /NBD magic/],
    ['is of the old style', bytes('NBDMAGIC', 0x00420281861253n), /option magic/],
    ['answers another option', bytes(HELLO, reply(5, 1)), /an answer to 5/],
    ['sends a reply of 4 GB', bytes(HELLO, reply(8, 1, undefined, 0xffffffff)), /length: 4294967295 bytes/],
    ['does not have the export', bytes(HELLO, STRUCTURED, CONTEXT, reply(7, 2 ** 31 + 6)), /no such export/],
    ['does not say the size', bytes(HELLO, STRUCTURED, CONTEXT, reply(7, 1)), /size of the export/],
    ['claims 2^63 bytes', bytes(HELLO, STRUCTURED, CONTEXT, info(2n ** 63n), reply(7, 1)), /export size/],
    ['goes away while negotiating', bytes(HELLO, STRUCTURED), /the stream ended/],
    ['hangs up instead of answering', AGREED, /hung up/],
    ['answers nobody', bytes(AGREED, chunk(1, data(4096n, 1024), { handle: 9n })), /handle: 0x9/],
    ['sends more than was asked', bytes(AGREED, chunk(1, data(4096n, 2048))), /not in what was read/],
    ['sends another place', bytes(AGREED, chunk(1, data(0n, 1024))), /not in what was read/],
    ['sends half of it', bytes(AGREED, chunk(1, data(4096n, 512))), /ended early/],
    [
      'sends a part twice',
      bytes(AGREED, chunk(1, data(4096n, 1024), { done: 0 }), chunk(1, data(4096n, 1024))),
      /ended early/,
    ],
    ['announces 4 GB of data', bytes(AGREED, chunk(1, data(4096n, 0), { length: 0xffffffff })), /not in what was read/],
    ['sends chunks of no known kind', bytes(AGREED, chunk(77, new Uint8Array(0))), /type 77/],
    ['sends a simple reply to a read', bytes(AGREED, 0x67446698, 0, 1n), /a simple one/],
    ['stops in the middle', bytes(AGREED, chunk(1, data(4096n, 100), { length: 1032 })), /the stream ended/],
  ])('%s: a typed error', async (_, said, wanted) => {
    const error = await readFrom(said)
    expect(FerryError.isInstance(error), String(error)).toBe(true)
    expect((error as Error).message).toMatch(wanted)
  })

  it('takes a read in parts, in any order, with holes', async () => {
    const hole = bytes(4096n, 512)
    const said = bytes(AGREED, chunk(1, data(4608n, 512), { done: 0 }), chunk(2, hole))
    expect(await readFrom(said)).toBeUndefined()
  })
})
