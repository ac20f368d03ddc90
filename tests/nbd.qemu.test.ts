/** Our NBD server with QEMU's client programs, and our client with qemu-nbd. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createImage, openImage } from '@ferryvm/block/node'
import { silentLogger } from '@ferryvm/core'
import { NbdDisk, NbdServer, nbdExportNames } from '@ferryvm/nbd'
import { unix } from '@ferryvm/transport-socket'
import { createTlsObjects, tlsChannelLayers } from '@ferryvm/transport-tls/objects'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { imageFolder, qemuImg, qemuImgMissing } from '../packages/block/src/node/qemu-img-testing.ts'

const MiB = 2 ** 20
const missing = qemuImgMissing()
if (missing) console.warn(`NBD beside QEMU's programs is skipped: ${missing}`)

const context = { signal: new AbortController().signal, log: silentLogger }
const parts = { unix: unix() }

describe.skipIf(missing)('NBD with the programs of QEMU', { timeout: 120_000 }, () => {
  let folder: ReturnType<typeof imageFolder>
  const started: ChildProcess[] = []
  const closers: (() => Promise<void>)[] = []
  beforeEach(() => {
    folder = imageFolder()
  })
  afterEach(async () => {
    for (const close of closers.splice(0)) await close()
    for (const child of started.splice(0)) child.kill('SIGKILL')
    folder[Symbol.dispose]()
  })

  /** Serves an image under the name `disk`; returns what QEMU's programs call it. */
  async function serve(image: string, options: ConstructorParameters<typeof NbdServer>[0] = {}) {
    const { backend } = await openImage(image)
    const server = new NbdServer(options)
    server.add({ name: 'disk', backend, writable: true })
    const path = folder.path('nbd.sock')
    const listener = await parts.unix.listen(parts.unix.parseAddress(path), context)
    void server.accept(listener)
    const stop = async () => {
      await server.close()
      await backend.close?.()
    }
    closers.push(stop)
    return { url: `nbd+unix:///disk?socket=${path}`, path, stop }
  }

  /** Without blocking: the server is in this process. */
  async function run(command: string, ...args: string[]): Promise<string> {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    started.push(child)
    let out = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (out += text))
    const status = await new Promise((resolve) => child.once('close', (code, signal) => resolve(code ?? signal)))
    if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${status}\n${out}`)
    return out
  }

  /** qemu-nbd with one image; resolves when it listens. */
  async function stockServer(...args: string[]): Promise<string> {
    const path = folder.path(`stock-${started.length}.sock`)
    const child = spawn('qemu-nbd', ['--socket', path, '--persistent', '--shared=8', ...args], { stdio: 'pipe' })
    started.push(child)
    let said = ''
    child.stderr.on('data', (text) => (said += text))
    while (!existsSync(path)) {
      if (child.exitCode !== null) throw new Error(`qemu-nbd: ${said}`)
      await delay(10)
    }
    return path
  }
  const dial = (path: string) => parts.unix.connect(parts.unix.parseAddress(path), context)

  it('qemu-img looks, copies in and out, maps and compares', async () => {
    const image = folder.path('served.qcow2')
    await createImage(image, { format: 'qcow2', size: 32 * MiB })
    const { url, path, stop } = await serve(image)
    const source = folder.path('source.raw')
    const contents = new Uint8Array(32 * MiB)
    for (let i = 0; i < 6 * MiB; i++) contents[5 * MiB + i] = i * 7 + (i >> 12)
    contents.fill(1, 32 * MiB - 512)
    writeFileSync(source, contents)

    expect(JSON.parse(await run('qemu-img', 'info', '--output=json', url))).toMatchObject({
      format: 'raw',
      'virtual-size': 32 * MiB,
    })
    await run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', source, url)
    expect(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, url)).toMatch(/identical/)
    const map = JSON.parse(await run('qemu-img', 'map', '--output=json', url))
    expect(map[0]).toMatchObject({ start: 0, length: 5 * MiB, zero: true, data: false })
    expect(map.some((run: any) => run.data && run.start === 5 * MiB)).toBe(true)
    await run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', url, folder.path('copy.raw'))
    expect(Buffer.compare(readFileSync(folder.path('copy.raw')), contents)).toBe(0)
    expect(await run('qemu-nbd', '--list', '-k', path)).toMatch(/export: 'disk'/)
    await stop()
    expect(qemuImg('check', image)).toMatch(/No errors/)
    expect(qemuImg('compare', source, image)).toMatch(/identical/)
  })

  it('qemu-io reads, writes, writes with FUA, zeros and discards, small and large', async () => {
    const image = folder.path('served.raw')
    await createImage(image, { format: 'raw', size: 48 * MiB })
    const { url } = await serve(image)
    const commands = [
      ...['write -P 17 0 4k', 'write -f -P 18 1M 512', 'write -P 19 4M 40M', 'write -z 6M 1M', 'write -z -u 8M 1M'],
      ...['discard 10M 1M', 'flush', 'read -P 17 0 4k', 'read -P 18 1M 512', 'read -P 0 6M 1M', 'read -P 0 8M 1M'],
      // Less than a sector: the client makes whole ones of it.
      ...['write -P 20 100 7', 'read -P 20 100 7', 'read -P 17 107 200', 'read -P 19 11M 33M'],
      ...['aio_write -P 21 0 64k', 'aio_write -P 22 64k 64k', 'aio_flush', 'read -P 21 0 64k', 'read -P 22 64k 64k'],
    ]
    const out = await run('qemu-io', '-f', 'raw', ...commands.flatMap((command) => ['-c', command]), url)
    expect(out).not.toMatch(/failed|error/i)
    await expect(run('qemu-io', '-f', 'raw', '-c', 'write 48M 4k', url)).rejects.toThrow()
  })

  it('asks for TLS first, and takes those that have it', async () => {
    const dir = folder.path('psk')
    mkdirSync(dir)
    writeFileSync(join(dir, 'keys.psk'), 'qemu:00112233445566778899aabbccddeeff\n')
    const objects = createTlsObjects()
    await objects.addText(`tls-creds-psk,id=t,dir=${dir},endpoint=server`)
    const parameters = { 'tls-creds': 't', 'tls-hostname': '', 'tls-authz': '' }
    const [tls] = tlsChannelLayers(objects)({ role: 'server', host: undefined, parameters } as never)
    const image = folder.path('served.raw')
    await createImage(image, { format: 'raw', size: 4 * MiB })
    const { path } = await serve(image, { tls })
    const drive = `driver=nbd,server.type=unix,server.path=${path},export=disk`
    const io = ['-c', 'write -P 7 0 1M', '-c', 'flush', '-c', 'read -P 7 0 1M']
    await expect(run('qemu-io', ...io, '--image-opts', drive)).rejects.toThrow(/TLS/)
    const creds = `tls-creds-psk,id=c,dir=${dir},endpoint=client,username=qemu`
    const out = await run('qemu-io', '--object', creds, ...io, '--image-opts', `${drive},tls-creds=c`)
    expect(out).not.toMatch(/failed|error/i)
    expect(
      readFileSync(image)
        .subarray(0, MiB)
        .every((byte) => byte === 7),
    ).toBe(true)
  })

  it('our client uses a disk of qemu-nbd, and sees what is zero there', async () => {
    const image = folder.path('stock.qcow2')
    qemuImg('create', '-f', 'qcow2', image, '40M')
    const path = await stockServer('-f', 'qcow2', '-x', 'stock', '-D', 'a disk', '--discard=unmap', image)
    expect(await nbdExportNames(await dial(path))).toEqual(['stock'])
    await expect(NbdDisk.open(await dial(path), { exportName: 'other' })).rejects.toMatchObject({
      code: 'FERRY_NBD_REFUSED',
    })
    const disk = await NbdDisk.open(await dial(path), { exportName: 'stock' })
    expect([disk.capacityBytes, disk.readOnly]).toEqual([40 * MiB, false])
    const bytes = new Uint8Array(36 * MiB)
    for (let i = 0; i < bytes.length; i++) bytes[i] = i * 13 + (i >> 11)
    await disk.write(2 * MiB, bytes)
    await disk.writeZeroes(8 * MiB, 2 * MiB)
    bytes.fill(0, 6 * MiB, 8 * MiB)
    await disk.discard(4 * MiB, 65536)
    await disk.write(4 * MiB, bytes.subarray(2 * MiB, 2 * MiB + 65536))
    expect(await disk.runAt!(0, 40 * MiB)).toEqual({ bytes: 2 * MiB, kind: 'zero' })
    const back = new Uint8Array(bytes.length)
    await disk.read(2 * MiB, back)
    expect(Buffer.compare(back, bytes)).toBe(0)
    await disk.flush()
    await expect(disk.read(40 * MiB, new Uint8Array(512))).rejects.toMatchObject({ code: 'FERRY_NBD_REQUEST' })
    await disk.close()
    const stock = started.at(-1)!
    const ended = new Promise((resolve) => stock.once('close', resolve))
    stock.kill('SIGTERM')
    await ended
    qemuImg('convert', '-O', 'raw', image, folder.path('contents.raw'))
    expect(Buffer.compare(readFileSync(folder.path('contents.raw')).subarray(2 * MiB, 38 * MiB), bytes)).toBe(0)
  })

  it('our client takes a read-only export as one, and fails when the server dies', async () => {
    const image = folder.path('stock.raw')
    writeFileSync(image, new Uint8Array(MiB).fill(5))
    const disk = await NbdDisk.open(await dial(await stockServer('-f', 'raw', '-r', image)))
    expect(disk.readOnly).toBe(true)
    const into = new Uint8Array(512)
    await disk.read(512, into)
    expect(into.every((byte) => byte === 5)).toBe(true)
    started.at(-1)!.kill('SIGKILL')
    await expect(
      (async () => {
        for (;;) await disk.read(0, into)
      })(),
    ).rejects.toMatchObject({ code: expect.stringMatching(/^FERRY_/) })
  })
})
