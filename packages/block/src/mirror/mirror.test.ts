import { type BlockBackend, createWriteLog, type WriteLog } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { Mirror, type MirrorOptions } from './mirror.ts'

const MiB = 2 ** 20

/** A disk in memory that gives way before each request, as real ones do. */
function disk(bytes: Uint8Array) {
  const logs = new Set<WriteLog>()
  const written: [number, number][] = []
  const backend: BlockBackend & { logs: Set<WriteLog>; written: [number, number][] } = {
    logs,
    written,
    capacityBytes: bytes.length,
    readOnly: false,
    async read(offset, into) {
      await new Promise((resolve) => setImmediate(resolve))
      into.set(bytes.subarray(offset, offset + into.length))
    },
    async write(offset, from) {
      await new Promise((resolve) => setImmediate(resolve))
      bytes.set(from, offset)
      written.push([offset, from.length])
      for (const log of logs) log.mark(offset, from.length)
    },
    async flush() {},
    trackWrites(granularityBytes) {
      const log = createWriteLog(bytes.length, granularityBytes, () => void logs.delete(log))
      logs.add(log)
      return log
    },
  }
  return backend
}

function setUp(options: Partial<MirrorOptions> = {}, size = 9 * MiB + 512) {
  const bytes = new Uint8Array(size)
  for (let i = 0; i < 5 * MiB; i++) bytes[i] = i * 3 + (i >> 8)
  const copy = new Uint8Array(size).fill(0xee)
  const source = disk(bytes)
  const target = disk(copy)
  const ready = Promise.withResolvers<void>()
  const mirror = new Mirror({ source, target, sync: 'full', onReady: ready.resolve, ...options })
  return { bytes, copy, source, target, mirror, ready: ready.promise }
}

describe('Mirror', () => {
  it('copies a disk while it is written to, and is the same when it ends', async () => {
    const { bytes, copy, source, mirror, ready } = setUp()
    const done = mirror.run()
    let writes = 0
    let writing = true
    const guest = (async () => {
      for (let i = 0; writing; i++) {
        await source.write(((i * 7919) % 18000) * 512, new Uint8Array(1024).fill(i))
        writes++
        if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 1))
      }
    })()
    await ready
    while (writes < 500) await new Promise((resolve) => setTimeout(resolve, 1))
    writing = false
    await guest
    mirror.end()
    await done
    expect(Buffer.compare(copy, bytes)).toBe(0)
    expect(source.logs.size).toBe(0)
    const { copied, total } = mirror.progress
    expect(copied).toBe(total)
    expect(copied).toBeGreaterThanOrEqual(bytes.length)
  })

  it('copies with sync none only what is written', async () => {
    const { copy, source, target, mirror, ready } = setUp({ sync: 'none' })
    const done = mirror.run()
    await ready
    await source.write(65536, new Uint8Array(512).fill(1))
    mirror.end()
    await done
    expect(target.written).toEqual([[65536, 65536]])
    expect(copy[65536]).toBe(1)
  })

  it('copies with sync top what is in the image itself', async () => {
    const { source, target } = setUp()
    source.runAt = async (offset, bytes) =>
      offset < 2 * MiB ? { bytes: 2 * MiB - offset, kind: 'backing' } : { bytes, kind: 'data' }
    const mirror = new Mirror({ source, target, sync: 'top' })
    mirror.end()
    await mirror.run()
    expect(Math.min(...target.written.map(([at]) => at))).toBe(2 * MiB)
  })

  it('leaves zeros out where the target has them already', async () => {
    const { target, mirror, bytes, copy } = setUp()
    copy.fill(0)
    target.runAt = async (_, length) => ({ bytes: length, kind: 'zero' })
    mirror.end()
    await mirror.run()
    expect(target.written.every(([at]) => at < 5 * MiB)).toBe(true)
    expect(Buffer.compare(copy, bytes)).toBe(0)
  })

  it.each(['read', 'write'] as const)(
    'ends when it cannot %s, and the source is not watched any more',
    async (operation) => {
      const { source, target, mirror } = setUp()
      const broken = async () => {
        throw new Error('broken')
      }
      if (operation === 'read') source.read = broken
      else target.write = broken
      await expect(mirror.run()).rejects.toMatchObject({ code: 'FERRY_MIRROR_IO', operation })
      expect(source.logs.size).toBe(0)
    },
  )

  it('stands still while it is paused, and ends when it is cancelled then', async () => {
    const { target, mirror } = setUp()
    mirror.pause()
    const done = mirror.run()
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect([target.written.length, mirror.paused]).toEqual([0, true])
    mirror.cancel()
    await expect(done).rejects.toMatchObject({ code: 'FERRY_MIRROR_CANCELLED' })
    expect(target.written).toEqual([])
  })

  it('keeps to a speed, which can be changed', async () => {
    const { mirror } = setUp({ bytesPerSecond: 1024 })
    const done = mirror.run()
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(mirror.progress.copied).toBeLessThanOrEqual(MiB) // one piece, on credit
    mirror.bytesPerSecond = 0
    mirror.end()
    await done
  })

  it('does not fit into a smaller target', () => {
    const source = disk(new Uint8Array(MiB))
    expect(() => new Mirror({ source, target: disk(new Uint8Array(512)), sync: 'full' })).toThrow(/the target has 512/)
    expect(source.logs.size).toBe(0)
  })
})
