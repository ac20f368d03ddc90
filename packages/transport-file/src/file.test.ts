import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Channel, createQEMUFileReader, createQEMUFileWriter, silentLogger } from '@ferryvm/core'
import { afterAll, describe, expect, it } from 'vitest'
import { file } from './index.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-file-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const context = (signal = new AbortController().signal) => ({ signal, log: silentLogger })
let names = 0
const newPath = () => join(folder, `f${names++}`)
const transport = file()
const outgoing = (text: string) => transport.connect(transport.parseAddress(text), context())
async function incoming(text: string): Promise<Channel> {
  const listener = await transport.listen(transport.parseAddress(text), context())
  for await (const channel of listener) {
    await listener[Symbol.asyncDispose]()
    return channel
  }
  throw new Error('no channel')
}

describe('file (protocol.md section 7)', () => {
  it('carries a QEMUFile with thousands of guest pages, at an offset', async () => {
    const path = newPath()
    const out = await outgoing(`${path},offset=4K`)
    const writer = createQEMUFileWriter(out)
    const page = new Uint8Array(new SharedArrayBuffer(4096)).fill(7)
    for (let i = 0; i < 3000; i++) {
      writer.putBe32(i)
      writer.putBufferAsync(page)
    }
    await writer.flush()
    await out.finish!()
    await out.close()
    expect(statSync(path).size).toBe(4096 + 3000 * 4100)
    expect(statSync(path).mode & 0o777).toBe(0o600)

    const input = await incoming(`${path},offset=0x1000`)
    const reader = createQEMUFileReader(input)
    for (let i = 0; i < 3000; i++) {
      await reader.fill(4100)
      expect(reader.getBe32()).toBe(i)
      expect(reader.getByte()).toBe(7)
      reader.skip(4095)
    }
    await reader.fill(1)
    expect(reader.ended).toBe(true)
    await input.close()
  })

  it('keeps what is before the offset and drops what was behind it', async () => {
    const path = newPath()
    writeFileSync(path, 'header, then a longer old stream')
    const out = await outgoing(`${path},offset=6`)
    await out.write([Buffer.from('!new'), new Uint8Array(0)])
    await out.close()
    expect(readFileSync(path, 'latin1')).toBe('header!new')
    const short = newPath()
    await (await outgoing(`${short},offset=10`)).close()
    expect(readFileSync(short)).toEqual(Buffer.alloc(10))
  })

  it('a full disk is an error that says where', async () => {
    const out = await outgoing('/dev/full')
    await expect(out.write([new Uint8Array(100)])).rejects.toMatchObject({
      code: 'FERRY_FILE_IO',
      offset: 0,
      message: 'cannot write /dev/full at offset 0: no space left on the device',
      cause: { code: 'ENOSPC' },
    })
    await out.close()
  })

  it('finish accepts what has no medium', async () => {
    const out = await outgoing('/dev/null')
    await out.write([new Uint8Array(100)])
    await out.finish!()
    await out.close()
  })

  it.each([
    ['a folder that is not there', () => join(folder, 'no/such'), 'no such file or directory'],
    ['a directory', () => folder, 'it is a directory'],
  ])('%s cannot be opened, in either direction', async (_, path, message) => {
    await expect(outgoing(path())).rejects.toMatchObject({ code: 'FERRY_FILE_OPEN', path: path() })
    await expect(outgoing(path())).rejects.toThrow(message)
    await expect(incoming(path())).rejects.toThrow(message)
    expect(existsSync(join(folder, 'no'))).toBe(false)
  })

  it('refuses an offset at or behind the end of what it reads, and a named pipe', async () => {
    const path = newPath()
    writeFileSync(path, 'abc')
    await expect(incoming(`${path},offset=3`)).rejects.toThrow('it has 3 bytes, and the stream would begin at 3')
    const pipe = newPath()
    execFileSync('mkfifo', [pipe])
    await expect(incoming(pipe)).rejects.toThrow(`it is a named pipe; use exec:cat ${pipe}`)
    await expect(outgoing(pipe)).rejects.toThrow('it is a named pipe')
  })

  it('has one direction and says so', async () => {
    const path = newPath()
    expect([...transport.features]).toEqual(['seekable'])
    const out = await outgoing(path)
    await expect(out.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    await expect(out.shutdown('write')).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    await out.write([Uint8Array.of(1)])
    const reason = new Error('enough')
    await out.close(reason)
    await out.close()
    for (const call of [out.write([Uint8Array.of(1)]), out.shutdown('write'), out.finish!()]) {
      await expect(call).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED', cause: reason })
    }
    const input = await incoming(path)
    await expect(input.write([Uint8Array.of(1)])).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    const first = input.read(new Uint8Array(1))
    await expect(input.read(new Uint8Array(1))).rejects.toBeInstanceOf(TypeError)
    expect(await first).toBe(1)
    expect(await input.read(new Uint8Array(1))).toBe(0)
    await input.close()
  })

  it('a close rejects a write that is under way and leaves nothing behind', async () => {
    const out = await outgoing(newPath())
    const reason = new Error('cancelled')
    const failed = expect(out.write([new Uint8Array(64 << 20)])).rejects.toMatchObject({
      code: 'FERRY_CHANNEL_CLOSED',
      cause: reason,
    })
    await out.close(reason)
    await failed
  })

  it('a listener that is closed ends its loop; an aborted signal stops both', async () => {
    const path = newPath()
    writeFileSync(path, 'abc')
    const listener = await transport.listen({ path, offset: 0 }, context())
    await listener[Symbol.asyncDispose]()
    for await (const _ of listener) throw new Error('accepted after the end')
    const aborted = AbortSignal.abort(new Error('not now'))
    await expect(transport.connect({ path, offset: 0 }, context(aborted))).rejects.toThrow('not now')
    expect(readFileSync(path, 'latin1')).toBe('abc')
  })
})
