import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { createQEMUFileReader } from '../qemufile/qemufile-reader.ts'
import { createQEMUFileWriter } from '../qemufile/qemufile-writer.ts'
import { fromFd } from './from-fd.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-fd-'))
afterAll(() => rmSync(folder, { recursive: true }))

describe('fromFd', () => {
  it('writes a file with thousands of buffers, and reads it again', async () => {
    const path = join(folder, 'stream')
    const out = fromFd(-1, openSync(path, 'w'))
    const writer = createQEMUFileWriter(out)
    const page = new Uint8Array(new SharedArrayBuffer(4096)).fill(7)
    for (let i = 0; i < 3000; i++) {
      writer.putBe32(i)
      writer.putBufferAsync(page)
    }
    await writer.flush()
    await out.close()
    expect(readFileSync(path)).toHaveLength(3000 * 4100)

    const input = fromFd(openSync(path, 'r'), -1)
    const reader = createQEMUFileReader(input)
    for (let i = 0; i < 3000; i++) {
      await reader.fill(4100)
      expect(reader.getBe32()).toBe(i)
      expect(reader.getByte()).toBe(7)
      reader.skip(4095)
    }
    await reader.fill(1)
    expect(reader.ended).toBe(true)
    await expect(input.write([page])).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    await expect(input.shutdown('write')).rejects.toMatchObject({ code: 'FERRY_UNSUPPORTED_FEATURE' })
    const reason = new Error('done')
    await input.close(reason)
    await expect(input.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED', cause: reason })
  })

  it('what the system refuses is a ChannelClosedError with its reason', async () => {
    const fd = openSync(join(folder, 'gone'), 'w')
    closeSync(fd)
    await expect(fromFd(-1, fd, { keepOpen: true }).write([Uint8Array.of(1)])).rejects.toMatchObject({
      code: 'FERRY_CHANNEL_CLOSED',
      cause: { code: 'EBADF' },
    })
  })
})
