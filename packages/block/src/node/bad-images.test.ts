import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { ImageError, ImageIoError } from '../errors.ts'
import { type ImageFile, memoryImageFile } from '../image-file.ts'
import { checkQcow2 } from '../qcow2/check.ts'
import { createQcow2 } from '../qcow2/create-qcow2.ts'
import { Qcow2Image } from '../qcow2/qcow2-image.ts'
import { repairQcow2 } from '../qcow2/repair.ts'
import { nodeClusterCompression } from './cluster-compression.ts'
import { convertImage } from './convert-image.ts'
import { createImage } from './create-image.ts'
import { openImage } from './open-image.ts'
import { imageFolder, qemuImg, qemuImgMissing, randomNumbers } from './qemu-img-testing.ts'

const MiB = 2 ** 20
let folder: ReturnType<typeof imageFolder>
beforeEach(() => {
  folder = imageFolder()
})
afterEach(() => folder[Symbol.dispose]())

/** A small image with data, as bytes. */
async function sample(): Promise<Uint8Array> {
  const path = folder.path('sample.qcow2')
  await createImage(path, { format: 'qcow2', size: 4 * MiB, clusterBytes: 4096 })
  const { qcow2 } = await openImage(path)
  await qcow2!.write(0, new Uint8Array(200_000).fill(7))
  await qcow2!.writeCompressed(MiB, new Uint8Array(4096).fill(3))
  await qcow2!.snapshots.create({ name: 's', dateSeconds: 1, dateNanoseconds: 2, vmClockNs: 3n, vmStateBytes: 0 })
  await qcow2!.write(4096, new Uint8Array(9000).fill(8))
  await qcow2!.close()
  return readFileSync(path)
}
const change = (bytes: Uint8Array, patch: (view: DataView) => void): string => {
  const copy = bytes.slice()
  patch(new DataView(copy.buffer))
  const path = folder.path('changed.qcow2')
  writeFileSync(path, copy)
  return path
}

describe('what is wrong with an image is said, and nothing is lost', () => {
  it('a directory, a pipe, a file that is not there, a size that is none', async () => {
    mkdirSync(folder.path('d'))
    execFileSync('mkfifo', [folder.path('p')])
    await expect(openImage(folder.path('d'))).rejects.toMatchObject({
      code: 'FERRY_IMAGE_OPEN',
      message: /it is a directory/,
    })
    await expect(openImage(folder.path('p'))).rejects.toMatchObject({ code: 'FERRY_IMAGE_OPEN' })
    await expect(openImage(folder.path('none'))).rejects.toMatchObject({
      code: 'FERRY_IMAGE_OPEN',
      message: /no such file/,
    })
    for (const size of [2 ** 63, -512, 1.5e300]) {
      const made = createImage(folder.path('n'), { format: 'qcow2', size })
      await expect(made).rejects.toMatchObject({ code: 'FERRY_IMAGE_OPTION' })
    }
    await expect(openImage(folder.path('n'))).rejects.toMatchObject({ code: 'FERRY_IMAGE_OPEN' })
  })

  it('a loop of backing files, under other names too', async () => {
    const [a, b] = [folder.path('a.qcow2'), folder.path('b.qcow2')]
    await createImage(a, { format: 'qcow2', size: MiB })
    await createImage(b, { format: 'qcow2', backingFile: 'a.qcow2', backingFormat: 'qcow2' })
    symlinkSync('b.qcow2', folder.path('also-b.qcow2'))
    const file = memoryImageFile()
    await createQcow2(file, { size: MiB, backingFile: 'also-b.qcow2', backingFormat: 'qcow2' })
    const bytes = new Uint8Array(await file.size())
    await file.read(0, bytes)
    writeFileSync(a, bytes)
    await expect(openImage(b, { readOnly: true })).rejects.toMatchObject({ code: 'FERRY_IMAGE_BACKING_CHAIN' })
    await expect(openImage(a)).rejects.toMatchObject({ code: 'FERRY_IMAGE_BACKING_CHAIN' })
  })

  it('a backing file that is not there, or not on this host', async () => {
    const path = folder.path('top.qcow2')
    for (const [backingFile, code] of [
      ['gone.qcow2', 'FERRY_IMAGE_OPEN'],
      ['nbd://192.0.2.1/x', 'FERRY_IMAGE_FEATURE'],
      ['json:{"driver":"nbd"}', 'FERRY_IMAGE_FEATURE'],
    ] as const) {
      const file = memoryImageFile()
      await createQcow2(file, { size: MiB, backingFile, backingFormat: 'qcow2' })
      const bytes = new Uint8Array(await file.size())
      await file.read(0, bytes)
      writeFileSync(path, bytes)
      await expect(openImage(path)).rejects.toMatchObject({ code })
    }
  })

  it.each<[string, (view: DataView) => void, RegExp]>([
    ['a disk of 2^63 bytes', (v) => v.setBigUint64(24, 2n ** 63n), /size \(offset 24\).*9223372036854775808/],
    ['an L1 table of 2^32 entries', (v) => v.setUint32(36, 0xffff_ffff), /l1_size/],
    ['an L1 table too short for the disk', (v) => v.setUint32(36, 0), /l1_size/],
    ['an L1 table behind the end', (v) => v.setBigUint64(40, 2n ** 40n), /l1_table_offset/],
    ['an L1 table inside a cluster', (v) => v.setBigUint64(40, 512n), /l1_table_offset/],
    ['a refcount table of 2^32 clusters', (v) => v.setUint32(56, 0xffff_ffff), /refcount_table_clusters/],
    ['a refcount table behind the end', (v) => v.setBigUint64(48, 2n ** 40n), /refcount_table_offset/],
    ['2^32 snapshots', (v) => v.setUint32(60, 0xffff_ffff), /nb_snapshots/],
    ['snapshots behind the end', (v) => v.setBigUint64(64, 2n ** 40n), /snapshot table/],
    ['clusters of 2^31 bytes', (v) => v.setUint32(20, 31), /cluster_bits/],
    ['encryption', (v) => v.setUint32(32, 2), /encrypted/],
    ['unknown features', (v) => v.setBigUint64(72, 1n << 40n), /unknown incompatible features/],
    ['an external data file', (v) => v.setBigUint64(72, 4n), /external data file/],
    ['version 9', (v) => v.setUint32(4, 9), /version 9|format "raw"/],
    ['a header of 4 GiB', (v) => v.setUint32(100, 0xffff_fff8), /header_length/],
    ['a name outside of the first cluster', (v) => v.setBigUint64(8, 2n ** 40n), /backing_file_(size|offset)/],
    ['counts of 2^7 bits', (v) => v.setUint32(96, 7), /refcount_order/],
    ['the mark of a damaged image', (v) => v.setBigUint64(72, 2n), /marked as damaged/],
  ])('%s', async (_, patch, message) => {
    const path = change(await sample(), patch)
    const error = await openImage(path, { format: 'qcow2' }).then(
      () => undefined,
      (e: unknown) => e,
    )
    expect(error).toBeInstanceOf(ImageError)
    expect((error as ImageError).message).toMatch(message)
  })

  it('other formats by name', async () => {
    const path = folder.path('disk.vmdk')
    writeFileSync(path, 'KDMV'.padEnd(2048, '\0'))
    await expect(openImage(path)).rejects.toMatchObject({ code: 'FERRY_IMAGE_FEATURE', message: /vmdk/ })
    await expect(openImage(path, { format: 'vhdx' })).rejects.toMatchObject({ code: 'FERRY_IMAGE_FEATURE' })
  })

  it('a guest cannot turn a guessed raw disk into an image that names files of the host', async () => {
    const path = folder.path('disk.img')
    writeFileSync(path, new Uint8Array(MiB))
    const warnings: string[] = []
    const guessed = await openImage(path, { warn: (m) => warnings.push(m) })
    const header = (await sample()).slice(0, 512)
    await expect(guessed.backend.write(0, header)).rejects.toMatchObject({ code: 'FERRY_IMAGE_IO', message: /qcow2/ })
    await guessed.backend.write(512, header)
    await guessed.backend.write(0, new Uint8Array(512).fill(1))
    await guessed.backend.close?.()
    expect(warnings).toEqual([expect.stringContaining('format=raw')])
    const named = await openImage(path, { format: 'raw', warn: (m) => warnings.push(m) })
    await named.backend.write(0, header)
    await named.backend.close?.()
    expect(warnings).toHaveLength(1)
  })

  it('damage anywhere is an error of ours, an early end too: 600 cases', { timeout: 120_000 }, async () => {
    const good = await sample()
    const random = randomNumbers(0xbad)
    // Tables are at the start, so that is where it hurts most.
    for (let i = 0; i < 600; i++) {
      const bytes = good.slice(0, i % 10 === 0 ? random(good.length) : good.length)
      for (let n = 1 + random(6); n > 0; n--) {
        const at = random(Math.min(bytes.length, i % 2 ? 112 : 40_000))
        if (at < bytes.length) bytes[at] = random(256)
      }
      const file = memoryImageFile({ bytes })
      try {
        const image = await Qcow2Image.open(file, { compression: nodeClusterCompression })
        const into = new Uint8Array(65536)
        for (let at = 0; at < Math.min(image.capacityBytes, 2 * MiB); at += into.length) await image.read(at, into)
        await image.write(10_000, into.subarray(0, 5000))
        await image.flush()
        for (const { id } of image.snapshots.list()) await image.snapshots.delete(id)
        await checkQcow2(image)
      } catch (error) {
        expect(error, `case ${i}: ${(error as Error).stack}`).toBeInstanceOf(ImageError)
      }
      try {
        const image = await Qcow2Image.open(memoryImageFile({ bytes }), { asItIs: true })
        await repairQcow2(image, 'all')
      } catch (error) {
        expect(error, `repair ${i}: ${(error as Error).stack}`).toBeInstanceOf(ImageError)
      }
    }
  })

  it('a full disk: what was flushed stays, the image is whole, and with room it goes on', async () => {
    const inner = memoryImageFile()
    await createQcow2(inner, { size: 8 * MiB, clusterBytes: 4096 })
    let room = 900_000
    const full = (offset: number) =>
      new ImageIoError('memory', 'write', offset, new Error('no space left on the device'))
    const file: ImageFile = {
      ...inner,
      async write(offset, from) {
        if (offset + from.length > room) throw full(offset)
        await inner.write(offset, from)
      },
    }
    const image = await Qcow2Image.open(file)
    await image.write(0, new Uint8Array(300_000).fill(1))
    const when = { dateSeconds: 1, dateNanoseconds: 0, vmClockNs: 1n }
    await image.snapshots.writeVmState(0, new Uint8Array(100_000).fill(2))
    const { id } = await image.snapshots.create({ name: 'old', vmStateBytes: 100_000, ...when })
    await image.snapshots.discardVmState()
    await expect(image.snapshots.writeVmState(0, new Uint8Array(700_000))).rejects.toMatchObject({
      code: 'FERRY_IMAGE_IO',
    })
    await image.snapshots.discardVmState()
    // Whatever byte is the last that fits: making a snapshot is all or nothing.
    const used = await inner.size()
    for (let more = 0; more < 40_000; more += 1024) {
      room = used + more
      const made = await image.snapshots
        .create({ name: 'new', vmStateBytes: 0, replaces: id, ...when })
        .catch((error: unknown) => void expect(error).toMatchObject({ code: 'FERRY_IMAGE_IO' }))
      expect(await checkQcow2(image)).toMatchObject({ corruptions: 0, leaks: 0 })
      if (made) break
      expect(image.snapshots.list().map((s) => s.name)).toEqual(['old'])
      const state = new Uint8Array(100_000)
      await (await image.snapshots.openVmState(id))(0, state)
      expect(state.every((b) => b === 2)).toBe(true)
    }
    expect(image.snapshots.list().map((s) => s.name)).toEqual(['new'])
    room = 4 * MiB
    await image.write(2 * MiB, new Uint8Array(700_000).fill(3))
    await image.flush()
    expect(await checkQcow2(image)).toMatchObject({ corruptions: 0, leaks: 0 })
  })

  it('converts nothing onto itself', async () => {
    const path = folder.path('x.raw')
    await createImage(path, { format: 'raw', size: MiB })
    await expect(convertImage(path, path, { format: 'raw' })).rejects.toMatchObject({ code: 'FERRY_IMAGE_OPTION' })
  })
})

describe.skipIf(process.platform !== 'linux' || qemuImgMissing())('locks, with stock QEMU on the other side', () => {
  it('an image in use is refused on both sides, and free again afterwards', { timeout: 60_000 }, async () => {
    const path = folder.path('disk.qcow2')
    await createImage(path, { format: 'qcow2', size: MiB })
    const ours = await openImage(path)
    expect(() => qemuImg('info', path)).toThrow(/lock/)
    await expect(openImage(path)).rejects.toMatchObject({ code: 'FERRY_IMAGE_LOCKED' })
    await expect(openImage(path, { readOnly: true })).rejects.toMatchObject({ code: 'FERRY_IMAGE_LOCKED' })
    await ours.backend.close?.()

    const readers = [await openImage(path, { readOnly: true }), await openImage(path, { readOnly: true })]
    qemuImg('info', path)
    await expect(openImage(path)).rejects.toMatchObject({ code: 'FERRY_IMAGE_LOCKED' })
    for (const reader of readers) await reader.backend.close?.()

    const stock = spawn('qemu-io', ['-f', 'qcow2', path])
    const gone = once(stock, 'exit')
    stock.stdin.write('write 0 64k\n')
    await once(stock.stdout, 'data')
    await expect(openImage(path)).rejects.toMatchObject({ code: 'FERRY_IMAGE_LOCKED' })
    const looking = await openImage(path, { readOnly: true, unlocked: true })
    await looking.backend.close?.()
    stock.stdin.end('quit\n')
    await gone
    await (await openImage(path)).backend.close?.()
  })

  it('a copy that ends early', async () => {
    const path = folder.path('cut.qcow2')
    await sample()
    copyFileSync(folder.path('sample.qcow2'), path)
    truncateSync(path, 8192)
    await expect(openImage(path)).rejects.toBeInstanceOf(ImageError)
  })
})
