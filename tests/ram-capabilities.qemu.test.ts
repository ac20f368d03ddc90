/**
 * How memory travels: capabilities of the RAM section between `emu` and stock QEMU, both ways. Each chain of machines is one
 * test; the guest, which writes memory all the time, says at its end whether a byte was lost.
 */
import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, type EmbeddedGuestOptions, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createPeer, type MigrationSettings, movePeer, type Peer, type PeerKind } from './harness/peers.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 2 ** 20
const no72 = stockQemuMissing()
const no10 = stockQemu10Missing()
for (const reason of [no72, no10]) if (reason) console.warn(`skipped: ${reason}`)

interface Way extends MigrationSettings {
  readonly name: string
  readonly chains: readonly (readonly PeerKind[])[]
  readonly guest?: EmbeddedGuestOptions
  /** Nothing goes on before this holds for the sender's `query-migrate`; then the guest may go. */
  readonly until?: (info: any) => boolean
  /** It waits before the switch-over and has to be told to go on. */
  readonly pauses?: boolean
  /** That it was used at all: asked of a stock sender's, and our, `query-migrate` at the end. */
  readonly proof?: (info: any) => void
}

const BOTH: readonly (readonly PeerKind[])[] = [
  ['emu-7.2', '7.2', 'emu-7.2'],
  ['emu-10.0', '10.0', 'emu-10.0'],
]

/** A 7.2 that sends is not asked what became of the guest: it loses writes of a guest that writes much while it looks at its dirty log again and again, also to 7.2. */
const WRITING: readonly (readonly PeerKind[])[] = [
  ['emu-7.2', '7.2'],
  ['7.2', 'emu-7.2'],
  ['emu-10.0', '10.0', 'emu-10.0'],
]
/** Writes one word per page, and every page some times per second. */
const PAGE_TOUCHING = { dirtyBytes: 4 * MiB, dirtyBytesPerSecond: 64 * MiB, dirtyWordsPerPage: 1 }
/** It does not end by itself until it is allowed to. (With 0, stock QEMU does not look at the dirty log again.) */
const HELD_BACK = { 'max-bandwidth': 4 * MiB, 'downtime-limit': 1 }

const ways: readonly Way[] = [
  {
    name: 'xbzrle',
    chains: WRITING,
    capabilities: ['xbzrle'],
    parameters: { ...HELD_BACK, 'xbzrle-cache-size': 16 * MiB },
    guest: PAGE_TOUCHING,
    until: (info) => info['xbzrle-cache']?.pages > 5,
  },
  {
    name: 'auto-converge',
    chains: WRITING.filter(([first]) => first !== '7.2'),
    capabilities: ['auto-converge'],
    parameters: { ...HELD_BACK, 'max-bandwidth': 2 * MiB, 'cpu-throttle-initial': 50 },
    guest: PAGE_TOUCHING,
    until: (info) => info['cpu-throttle-percentage'] >= 50,
  },
  ...(['none', 'zlib', 'zstd'] as const).map((method) => ({
    name: `multifd, ${method}`,
    chains: BOTH,
    capabilities: ['multifd'],
    parameters: { 'multifd-channels': 3, 'multifd-compression': method },
    proof: (info: any) => expect(info.ram['multifd-bytes']).toBeGreaterThan(MiB / 8),
  })),
  {
    name: 'compress',
    chains: [['emu-7.2', '7.2', 'emu-7.2']],
    capabilities: ['compress'],
    parameters: { 'compress-level': 3, 'compress-threads': 2 },
    proof: (info: any) => expect(info.compression.pages).toBeGreaterThan(100),
  },
  {
    name: 'pause-before-switchover',
    chains: BOTH,
    capabilities: ['pause-before-switchover'],
    pauses: true,
  },
  ...(['legacy', 'none'] as const).map((detection) => ({
    name: `multifd, zero-page-detection ${detection}`,
    chains: [['emu-10.0', '10.0', 'emu-10.0']] as const,
    capabilities: ['multifd'],
    parameters: { 'zero-page-detection': detection },
  })),
]

async function until(from: Peer, holds: (info: any) => boolean, limitMs = 30_000): Promise<void> {
  for (const began = Date.now(); ; await delay(20)) {
    const info = await from.info()
    if (holds(info)) return
    if (info.status === 'failed' || info.status === 'completed' || Date.now() - began > limitMs) {
      throw new Error(`${from.kind} never came to that: ${JSON.stringify(info)}`)
    }
  }
}

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

/** Takes the guest along the chain. @returns what the guest found wrong at its end; undefined: it was not asked */
async function travel(way: Way, chain: readonly PeerKind[]): Promise<readonly string[] | undefined> {
  const kernel = join(folder.path, 'guest.bin')
  const image = { dirtyBytes: 4 * MiB, dirtyBytesPerSecond: 4 * MiB, lcgStepsPerSecond: 200_000, ...way.guest }
  writeFileSync(kernel, embeddedGuestImage({ ...image, linesPerSecond: 20, earlyTimer: true }))
  const guest = createGuestMonitor()
  const boot = { kernel, ramBytes: 32 * MiB, onOutput: (text: string) => guest.push(text) }
  let here: Peer = await createPeer(chain[0]!, 'source', boot, folder.path)
  try {
    await here.start()
    await guest.until((g) => g.lines > 3, 30_000)
    for (const kind of chain.slice(1)) {
      const there = await createPeer(kind, 'destination', boot, folder.path)
      await here.configure(way)
      await there.configure(way)
      await movePeer(here, there, undefined, async (from) => {
        if (way.until) await until(from, way.until)
        await from.configure({ parameters: { 'max-bandwidth': 0, 'downtime-limit': 2000 } })
        if (way.pauses) {
          await until(from, (info) => info.status === 'pre-switchover')
          await from.continueSwitchover()
        }
        await until(from, (info) => info.status === 'completed')
        way.proof?.(await from.info())
      })
      here = there
      const { lines } = guest
      await guest.until((g) => g.lines > lines + 3, 30_000)
    }
    if (chain.slice(0, -1).includes('7.2') && way.chains === WRITING) return undefined
    here.type('q')
    await guest.until((g) => g.verdicts.length > 0, 30_000)
    expect(guest.verdicts[0]).toMatchObject({ ok: guest.problems.length === 0 })
    return guest.problems
  } finally {
    await here[Symbol.asyncDispose]()
  }
}

describe.skipIf(no72)('memory between emu and stock QEMU', { timeout: 180_000 }, () => {
  for (const way of ways) {
    for (const chain of way.chains) {
      it.skipIf(no10 !== undefined && chain.includes('10.0'))(`${way.name}: ${chain.join(' to ')}`, async () => {
        // A 7.2 that sends loses a page of a busy guest now and then: docs/stock-qemu.md. Ours and 10.0 have one attempt.
        const attempts = chain.slice(0, -1).includes('7.2') ? 3 : 1
        let problems = await travel(way, chain)
        for (let attempt = 2; attempt <= attempts && problems?.length; attempt++) {
          console.warn(`${way.name}: stock 7.2 lost a page: ${problems[0]}`)
          problems = await travel(way, chain)
        }
        expect(problems ?? []).toEqual([])
      })
    }
  }

  for (const [name, capabilities] of [
    ['mapped-ram', ['mapped-ram']],
    ['mapped-ram with multifd', ['mapped-ram', 'multifd']],
    ['mapped-ram, and runs before its memory is read', ['mapped-ram']],
  ] as const) {
    const lazy = name.includes('before')
    const chains: readonly (readonly PeerKind[])[] = [
      ['emu-10.0', '10.0', 'emu-10.0'],
      ['emu-7.2', 'emu-7.2'],
    ]
    for (const chain of chains) {
      it.skipIf(no10 !== undefined && chain.includes('10.0'))(`${name}: ${chain.join(' to ')}`, async () => {
        const kernel = join(folder.path, 'guest.bin')
        const image = { dirtyBytes: 4 * MiB, dirtyBytesPerSecond: 4 * MiB, lcgStepsPerSecond: 200_000 }
        writeFileSync(kernel, embeddedGuestImage({ ...image, linesPerSecond: 20, earlyTimer: true }))
        const guest = createGuestMonitor()
        const boot = { kernel, ramBytes: 32 * MiB, onOutput: (text: string) => guest.push(text) }
        let here: Peer = await createPeer(chain[0]!, 'source', boot, folder.path)
        try {
          await here.start()
          await guest.until((g) => g.lines > 3, 30_000)
          for (const [i, kind] of chain.slice(1).entries()) {
            const path = join(folder.path, `guest-${i}.mapped`)
            await here.configure({ capabilities })
            await here.send(`file:${path},offset=0x1000`)
            await here[Symbol.asyncDispose]()
            // The file is as large as the guest, however often its pages were written, and has holes for its zeros.
            const { size, blocks } = statSync(path)
            expect(size).toBeGreaterThan(32 * MiB)
            expect(blocks * 512).toBeLessThan(24 * MiB)
            here = await createPeer(kind, 'destination', boot, folder.path)
            await here.configure({ capabilities })
            await here.listen(`file:${path},offset=0x1000`, { lazy: lazy && kind.startsWith('emu') })
            await here.arrived()
            const { lines } = guest
            await guest.until((g) => g.lines > lines + 3, 30_000)
          }
          here.type('q')
          await guest.until((g) => g.verdicts.length > 0, 30_000)
          expect(guest.problems).toEqual([])
          expect(guest.verdicts[0]).toMatchObject({ ok: true })
        } finally {
          await here[Symbol.asyncDispose]()
        }
      })
    }
  }
})
