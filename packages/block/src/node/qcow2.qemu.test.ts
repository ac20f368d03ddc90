import { readFileSync, statSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { checkQcow2 } from '../qcow2/check.ts'
import { repairQcow2 } from '../qcow2/repair.ts'
import { convertImage } from './convert-image.ts'
import { type CreateImageOptions, createImage } from './create-image.ts'
import { imageInfo } from './image-info.ts'
import { openImage } from './open-image.ts'
import { imageFolder, qemuImg, qemuImgMissing, qemuIo, randomNumbers } from './qemu-img-testing.ts'

const MiB = 2 ** 20
const missing = qemuImgMissing()
if (missing) console.warn(`qcow2 beside qemu-img is skipped: ${missing}`)

describe.skipIf(missing)('qcow2, judged by qemu-img', { timeout: 120_000 }, () => {
  let folder: ReturnType<typeof imageFolder>
  beforeEach(() => {
    folder = imageFolder()
  })
  afterEach(() => folder[Symbol.dispose]())

  /** What qemu-img says of it, when all is well; it throws where not. */
  const stockCheck = (path: string) => JSON.parse(qemuImg('check', '--output=json', path))
  const stockContents = (path: string) => {
    qemuImg('convert', '-O', 'raw', path, folder.path('contents.raw'))
    return readFileSync(folder.path('contents.raw'))
  }
  const ourContents = async (path: string) => {
    const { backend } = await openImage(path, { readOnly: true })
    const bytes = new Uint8Array(backend.capacityBytes)
    for (let at = 0; at < bytes.length; at += 3 * MiB) await backend.read(at, bytes.subarray(at, at + 3 * MiB))
    await backend.close?.()
    return bytes
  }
  const ourCheck = async (path: string) => {
    const { qcow2 } = await openImage(path, { readOnly: true, asItIs: true })
    const result = await checkQcow2(qcow2!)
    await qcow2!.close()
    return result
  }

  const created: [string, Partial<CreateImageOptions> & { size: number }][] = [
    ['defaults', { size: 64 * MiB }],
    ['clusters of 512 bytes', { size: 20 * MiB, clusterBytes: 512 }],
    ['clusters of 2 MiB', { size: 5000 * MiB, clusterBytes: 2 * MiB }],
    ['counts of one bit', { size: 8 * MiB, refcountBits: 1 }],
    ['counts of 64 bits, zstd', { size: 8 * MiB, refcountBits: 64, compressionType: 'zstd' }],
    ['version 2', { size: 3 * MiB, version: 2 }],
    ['lazy refcounts', { size: 3 * MiB, lazyRefcounts: true }],
    ['an empty disk', { size: 0 }],
    ['16 TiB', { size: 2 ** 44 }],
    ['small clusters, large disk', { size: 2 ** 32, clusterBytes: 512, refcountBits: 32 }],
  ]
  it.each(created)('creates, describes and checks an image as it does: %s', async (_, options) => {
    const path = folder.path('new.qcow2')
    await createImage(path, { format: 'qcow2', ...options })
    const theirs = stockCheck(path)
    const check = await ourCheck(path)
    expect(check).toMatchObject({ corruptions: 0, leaks: 0, messages: [] })
    expect(check.imageEndOffset).toBe(theirs['image-end-offset'])
    expect(check.totalClusters).toBe(theirs['total-clusters'] ?? 0)
    const { qcow2, ...rest } = await openImage(path, { readOnly: true })
    expect(await imageInfo({ qcow2, ...rest })).toEqual(JSON.parse(qemuImg('info', '--output=json', path)))
    await qcow2!.close()
  })

  it.each([
    ['zlib', 65536],
    ['zstd', 65536],
    ['zlib', 4096],
    ['zlib', 2 * MiB],
  ])(
    'reads what it wrote: %s, clusters of %i bytes, zero clusters, a backing file, snapshots',
    async (type, clusterBytes) => {
      const base = folder.path('base.qcow2')
      const top = folder.path('top.qcow2')
      qemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=${clusterBytes},compression_type=${type}`, base, '9M')
      qemuIo(base, 'write -P 1 0 1M', `write -c -P 2 4M ${clusterBytes}`, 'write -P 3 8M 100k', 'write -z 64k 64k')
      qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', top, '12M')
      qemuIo(top, 'write -P 9 512k 700k', 'write -z 8M 1M', 'write -P 4 11M 512')
      qemuImg('snapshot', '-c', 'first', top)
      qemuIo(top, 'write -P 5 1M 1M', 'discard 512k 64k')
      expect(Buffer.from(await ourContents(base)).equals(stockContents(base))).toBe(true)
      expect(Buffer.from(await ourContents(top)).equals(stockContents(top))).toBe(true)
      for (const path of [base, top]) {
        const theirs = stockCheck(path)
        const ours = await ourCheck(path)
        expect(ours).toMatchObject({ corruptions: 0, leaks: 0 })
        expect(ours.imageEndOffset).toBe(theirs['image-end-offset'])
        expect(ours.allocatedClusters).toBe(theirs['allocated-clusters'])
        expect(ours.compressedClusters).toBe(theirs['compressed-clusters'] ?? 0)
        const opened = await openImage(path, { readOnly: true })
        expect(await imageInfo(opened)).toEqual(JSON.parse(qemuImg('info', '--output=json', path)))
        await opened.backend.close?.()
      }
    },
  )

  it.each([
    ['zlib', 65536],
    ['zstd', 65536],
    ['zlib', 4096],
  ] as const)('compresses: %s, clusters of %i bytes', async (compressionType, clusterBytes) => {
    const raw = folder.path('disk.raw')
    const packed = folder.path('packed.qcow2')
    await createImage(raw, { format: 'raw', size: 5 * MiB + 512 })
    const { backend } = await openImage(raw, { format: 'raw' })
    const random = randomNumbers(7)
    for (let at = 0; at < 3 * MiB; at += 64 * 1024) {
      const bytes = Uint8Array.from({ length: 64 * 1024 }, (_, i) => (at % (192 * 1024) === 0 ? random(256) : i >> 8))
      await backend.write(at, bytes)
    }
    await backend.write(5 * MiB, new Uint8Array(512).fill(6))
    await backend.close?.()
    await convertImage(raw, packed, {
      format: 'qcow2',
      compress: true,
      compressionType,
      clusterBytes,
      sourceFormat: 'raw',
    })
    expect(stockCheck(packed)['compressed-clusters']).toBeGreaterThan(20)
    expect(stockContents(packed).equals(readFileSync(raw))).toBe(true)
    expect(statSync(packed).size).toBeLessThan(2.5 * MiB)
    const again = folder.path('again.raw')
    await convertImage(packed, again, { format: 'raw' })
    expect(readFileSync(again).equals(readFileSync(raw))).toBe(true)
  })

  const layouts: [string, Partial<CreateImageOptions>][] = [
    ['64 KiB', {}],
    ['512 bytes: the tables grow', { clusterBytes: 512 }],
    ['4 KiB, counts of 8 bits', { clusterBytes: 4096, refcountBits: 8 }],
    ['version 2', { version: 2, clusterBytes: 16384 }],
  ]
  it.each(layouts)('random writes, zeros, discards and snapshots: clusters of %s', async (_, options) => {
    const size = 12 * MiB
    const random = randomNumbers(0x5eed)
    const base = folder.path('base.raw')
    const path = folder.path('disk.qcow2')
    await createImage(base, { format: 'raw', size: 7 * MiB })
    const model = Buffer.alloc(size)
    const below = await openImage(base, { format: 'raw' })
    model.fill(0xba, 0, 7 * MiB)
    await below.backend.write(0, model.subarray(0, 7 * MiB))
    await below.backend.close?.()
    await createImage(path, { format: 'qcow2', size, backingFile: 'base.raw', backingFormat: 'raw', ...options })
    const kept = new Map<string, Buffer>()
    for (let round = 0; round < 4; round++) {
      const image = await openImage(path)
      const { qcow2 } = image
      const jobs: Promise<void>[] = []
      const busy: [number, number][] = []
      for (let i = 0; i < 60; i++) {
        const bytes = 512 * (1 + random(i % 7 === 0 ? 900 : 40))
        const offset = 512 * random((size - bytes) / 512)
        // Requests that overlap in time do not overlap on the disk: what they would leave is undefined.
        if (busy.some(([from, to]) => offset < to && offset + bytes > from)) await Promise.all(jobs.splice(0))
        busy.push([offset, offset + bytes])
        const kind = random(10)
        if (kind < 7) {
          const data = Uint8Array.from({ length: bytes }, () => random(256))
          model.set(data, offset)
          jobs.push(qcow2!.write(offset, data))
        } else if (kind < 9) {
          model.fill(0, offset, offset + bytes)
          jobs.push(qcow2!.writeZeroes(offset, bytes))
        } else jobs.push(qcow2!.flush())
      }
      await Promise.all(jobs)
      const seen = Buffer.alloc(size)
      await qcow2!.read(0, seen)
      expect(seen.equals(model)).toBe(true)
      const when = { dateSeconds: 1_800_000_000 + round, dateNanoseconds: 0, vmClockNs: 5_000_000_000n }
      if (round < 3) {
        const state = Uint8Array.from({ length: 300_000 }, () => random(256))
        await qcow2!.snapshots.writeVmState(0, state)
        const { id } = await qcow2!.snapshots.create({ name: `r${round}`, vmStateBytes: state.length, ...when })
        await qcow2!.snapshots.discardVmState()
        kept.set(id, Buffer.from(model))
        const back = new Uint8Array(state.length)
        await (await qcow2!.snapshots.openVmState(id))(0, back)
        expect(Buffer.from(back).equals(Buffer.from(state))).toBe(true)
      }
      if (round === 2) {
        const [first, second] = [...kept.keys()]
        await qcow2!.snapshots.apply(second!)
        model.set(kept.get(second!)!)
        await qcow2!.snapshots.delete(first!)
        kept.delete(first!)
      }
      await image.backend.close?.()
      stockCheck(path)
      expect(await ourCheck(path)).toMatchObject({ corruptions: 0, leaks: 0 })
      expect(stockContents(path).equals(model)).toBe(true)
      const listed = JSON.parse(qemuImg('info', '--output=json', path)).snapshots ?? []
      expect(listed.map((s: { id: string }) => s.id).sort()).toEqual([...kept.keys()].sort())
    }
    // Stock QEMU goes on with what we left, and we with what it left.
    for (const [id, contents] of kept) {
      qemuImg('snapshot', '-a', id, path)
      qemuIo(path, 'write -P 1 3M 70k')
      contents.fill(1, 3 * MiB, 3 * MiB + 70 * 1024)
      expect(Buffer.from(await ourContents(path)).equals(contents)).toBe(true)
    }
    const image = await openImage(path)
    for (const id of kept.keys()) await image.qcow2!.snapshots.delete(id)
    await image.backend.close?.()
    stockCheck(path)
  })

  it('says that bitmaps in an image are not kept up to date, and so does the image once it is written to', async () => {
    const path = folder.path('bitmaps.qcow2')
    qemuImg('create', '-q', '-f', 'qcow2', path, '16M')
    qemuImg('bitmap', '--add', path, 'kept')
    const warnings: string[] = []
    const open = (readOnly: boolean) => openImage(path, { readOnly, warn: (message) => void warnings.push(message) })
    const stockBitmaps = () => JSON.parse(qemuImg('info', '--output=json', path))['format-specific'].data.bitmaps
    await (await open(true)).backend.close?.()
    expect(warnings).toEqual([])
    await (await open(false)).backend.close?.()
    expect(warnings).toEqual([expect.stringContaining('dirty bitmaps in the image are not kept up to date here')])
    expect(stockBitmaps()).toMatchObject([{ name: 'kept' }])
    const { backend } = await open(false)
    await backend.write(0, new Uint8Array(512).fill(1))
    await backend.flush()
    await backend.close?.()
    // Whoever would rely on them is warned, and does not find them.
    expect(stockBitmaps()).toBeUndefined()
  })

  it('finds and repairs what qemu-img finds', async () => {
    const path = folder.path('hurt.qcow2')
    await createImage(path, { format: 'qcow2', size: 8 * MiB })
    const image = await openImage(path)
    await image.backend.write(0, new Uint8Array(3 * MiB).fill(5))
    await image.backend.flush()
    const { refcounts } = image.qcow2!
    await refcounts.set(8, 0)
    await refcounts.set(9, 4)
    await refcounts.allocate(3)
    await image.backend.close?.()
    expect(() => stockCheck(path)).toThrow('exit status 2')
    const found = await ourCheck(path)
    // The marks of clusters 8 and 9 do not contradict their true use.
    expect(found).toMatchObject({ corruptions: 1, leaks: 4 })
    const writable = await openImage(path, { asItIs: true })
    expect(await repairQcow2(writable.qcow2!, 'leaks')).toMatchObject({ leaksFixed: 4, corruptionsFixed: 0 })
    expect(await repairQcow2(writable.qcow2!, 'all')).toMatchObject({ leaksFixed: 0, corruptionsFixed: 1 })
    await writable.backend.close?.()
    stockCheck(path)
  })

  it('puts the counts of an image right that was not closed in order', async () => {
    const path = folder.path('dirty.qcow2')
    await createImage(path, { format: 'qcow2', size: 8 * MiB })
    const image = await openImage(path)
    await image.backend.write(0, new Uint8Array(MiB).fill(5))
    await image.backend.flush()
    await image.qcow2!.refcounts.set(7, 0)
    await image.qcow2!.setDirty(true)
    await image.backend.close?.()
    expect(JSON.parse(qemuImg('info', '--output=json', path))['dirty-flag']).toBe(true)
    const again = await openImage(path)
    await again.backend.close?.()
    expect(JSON.parse(qemuImg('info', '--output=json', path))['dirty-flag']).toBe(false)
    stockCheck(path)
  })
})
