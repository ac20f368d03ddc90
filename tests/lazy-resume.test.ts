/** A guest that runs out of a mapped-ram file before its memory is there: from a disk, from a server, and with what may go wrong. */
import { copyFileSync, mkdtempSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { file } from '@ferryvm/transport-file'
import { http } from '@ferryvm/transport-http'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createRangeServer, type RangeServer } from './harness/range-server.ts'
import { createVm, type TestVm } from './harness/vm.ts'

const MiB = 2 ** 20
const folder = mkdtempSync(join(tmpdir(), 'ferryvm-lazy-'))
const saved = join(folder, 'saved.state')
const kernel = embeddedGuestImage({
  dirtyBytes: 4 * MiB,
  dirtyBytesPerSecond: 4 * MiB,
  lcgStepsPerSecond: 200_000,
  linesPerSecond: 20,
  earlyTimer: true,
})
/** What it printed before it was saved. */
let before = ''
let server: RangeServer
let guest: ReturnType<typeof createGuestMonitor>
let vm: TestVm

const createSide = (onOutput: (text: string) => void) =>
  createVm({ kernel, ramBytes: 32 * MiB, onOutput, migrationOptions: { transports: [file(), http()] } })

beforeAll(async () => {
  const first = createGuestMonitor()
  await using source = await createSide((text) => {
    before += text
    first.push(text)
  })
  source.machine.start()
  await first.until((g) => g.lines > 3, 60_000)
  source.migration.setCapabilities([{ capability: 'mapped-ram', state: true }])
  await source.migration.migrate(`file:${saved}`)
}, 120_000)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

beforeEach(async () => {
  server = await createRangeServer(saved)
  guest = createGuestMonitor()
  guest.push(before)
  vm = await createSide((text) => guest.push(text))
})
afterEach(async () => {
  await vm[Symbol.asyncDispose]()
  await server[Symbol.asyncDispose]()
})

const missing = () => vm.machine.memory.missing.count
const goesOn = async () => {
  const { lines } = guest
  await guest.until((g) => g.lines > lines + 2, 60_000)
}
const isWhole = async () => {
  vm.type('q')
  await guest.until((g) => g.verdicts.length > 0, 60_000)
  expect(guest.problems).toEqual([])
  expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
}
const whenPaused = () =>
  new Promise<void>((resolve) => {
    if (vm.migration.status === 'postcopy-paused') resolve()
    vm.migration.on('status', (status) => status === 'postcopy-paused' && resolve())
  })

describe('lazy resume', { timeout: 120_000 }, () => {
  it('runs with what was touched, and needs nothing else', async () => {
    await vm.migration.incoming(`file:${saved}`, { lazy: { prefetch: false } })
    await goesOn()
    expect(vm.migration.status).toBe('postcopy-active')
    const { ram } = vm.migration.info()
    expect(missing()).toBeGreaterThan(0)
    expect(ram).toMatchObject({ remaining: missing() * 4096, total: expect.any(Number) })
    expect(ram!.transferred).toBeGreaterThan(0)
    expect(() => vm.migration.start('file:/dev/null')).toThrow('postcopy-active')
    await isWhole()
  })

  it('reads the rest in the background, and then is as any other guest', async () => {
    const { done } = await vm.migration.incoming(`file:${saved}`, { lazy: true })
    await done
    expect(vm.migration.status).toBe('completed')
    expect(missing()).toBe(0)
    await goesOn()
    await isWhole()
  })

  it('comes from a server, in parts', async () => {
    const { done } = await vm.migration.incoming(server.url, { lazy: true })
    await done
    expect(server.requests).toBeGreaterThan(5)
    await isWhole()
  })

  it('may also be read whole from a server', async () => {
    vm.migration.setCapabilities([{ capability: 'mapped-ram', state: true }])
    const { done } = await vm.migration.incoming(server.url)
    await done
    expect(vm.migration.status).toBe('completed')
    await isWhole()
  })

  it('asks again when a connection breaks', async () => {
    let breaks = 3
    await vm.migration.incoming(server.url, { lazy: { prefetch: false } })
    server.answer = (_, response) => {
      if (breaks-- <= 0) return false
      response.destroy()
      return true
    }
    await goesOn()
    await isWhole()
    expect(breaks).toBeLessThan(0)
  })

  it('a server that is gone for good pauses the guest, which goes on from another one', async () => {
    const { done } = await vm.migration.incoming(server.url, { lazy: true })
    const gone = new Promise<void>((resolve) => {
      vm.machine.on('resume', () => resolve(server[Symbol.asyncDispose]()))
    })
    await Promise.all([gone, whenPaused()])
    expect(vm.migration.error).toMatchObject({ code: 'FERRY_HTTP_REQUEST' })
    expect(missing()).toBeGreaterThan(0)
    expect(vm.machine.runState).toBe('running')
    await expect(vm.migration.recover(server.url)).rejects.toMatchObject({ code: 'FERRY_HTTP_REQUEST' })
    expect(vm.migration.status).toBe('postcopy-paused')
    await using other = await createRangeServer(saved)
    await vm.migration.recover(other.url)
    await done
    expect(vm.migration.status).toBe('completed')
    expect(missing()).toBe(0)
    await isWhole()
  })

  it('a file that changes on the server pauses the guest, which goes on with a copy of the old one', async () => {
    const { done } = await vm.migration.incoming(server.url, { lazy: { prefetch: false } })
    // It asks for its first page after that.
    vm.machine.on('resume', () => void (server.etag = '"second"'))
    await whenPaused()
    expect(vm.migration.error).toMatchObject({ code: 'FERRY_HTTP_CHANGED' })
    expect(vm.migration.info()).toMatchObject({
      status: 'postcopy-paused',
      'error-desc': expect.stringMatching('"second"'),
    })
    await expect(vm.migration.recover(server.url)).rejects.toMatchObject({ code: 'FERRY_LAZY_SOURCE' })
    expect(vm.migration.status).toBe('postcopy-paused')
    await vm.migration.recover(`file:${saved}`)
    await goesOn()
    await isWhole()
    await vm.migration[Symbol.asyncDispose]()
    await expect(done).rejects.toMatchObject({ code: 'FERRY_MIGRATION_CANCELLED' })
  })

  it('a file that is cut pauses the guest; another guest’s file is not taken', async () => {
    const cut = join(folder, 'cut.state')
    copyFileSync(saved, cut)
    const { done } = await vm.migration.incoming(`file:${cut}`, { lazy: { prefetch: false } })
    vm.machine.on('resume', () => truncateSync(cut, 2 * MiB))
    await whenPaused()
    expect(vm.migration.error).toMatchObject({ code: expect.stringMatching(/^FERRY_(LAZY_SOURCE|FILE_CHANGED)$/) })
    await expect(vm.migration.recover(`file:${cut}`)).rejects.toMatchObject({ code: 'FERRY_LAZY_SOURCE' })
    await expect(vm.migration.recover(`file:${join(folder, 'none')}`)).rejects.toMatchObject({
      code: 'FERRY_FILE_OPEN',
    })
    const zeros = join(folder, 'zeros.state')
    copyFileSync(saved, zeros)
    truncateSync(zeros, 0)
    truncateSync(zeros, 200 * MiB)
    await expect(vm.migration.recover(`file:${zeros}`)).rejects.toThrow('its pages of riscv_virt_board.ram are others')
    await vm.migration.recover(`file:${saved}`)
    vm.migration.pause()
    await whenPaused()
    await vm.migration.recover(server.url)
    await goesOn()
    await isWhole()
    done.catch(() => {})
  })

  it.each([
    [
      'gives no parts',
      'FERRY_HTTP_RANGE',
      (): void => {
        server.answer = (request) => {
          delete request.headers.range
          return false
        }
      },
    ],
    [
      'does not have it',
      'FERRY_HTTP_REQUEST',
      (): void => {
        server.answer = (_, response) => Boolean(response.writeHead(404).end())
      },
    ],
    [
      'sends another part',
      'FERRY_HTTP_RANGE',
      (): void => {
        server.answer = (_, response) =>
          Boolean(response.writeHead(206, { 'content-range': 'bytes 5-9/100' }).end('12345'))
      },
    ],
  ])('a server that %s is refused before anything happens', async (_, code, prepare) => {
    prepare()
    await expect(vm.migration.incoming(server.url, { lazy: true })).rejects.toMatchObject({ code })
    expect(vm.machine.runState).toBe('prelaunch')
  })

  it('a stream without mapped-ram, and a cut one, end it before the guest runs', async () => {
    const cut = join(folder, 'short.state')
    copyFileSync(saved, cut)
    truncateSync(cut, 40 * MiB)
    const { done } = await vm.migration.incoming(`file:${cut}`, { lazy: true })
    await expect(done).rejects.toSatisfy((error: { code: string }) => error.code.startsWith('FERRY_'))
    expect(vm.migration.status).toBe('failed')
    expect(vm.machine.runState).toBe('inmigrate')
  })
})
