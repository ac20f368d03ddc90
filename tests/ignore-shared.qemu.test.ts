/**
 * Machines of one host that have their memory in the same file: a migration sends devices only. The guest, which writes and checks
 * memory all the time, says at its end whether a byte was lost; stock QEMU maps the file.
 */
import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MemoryBackend } from '../apps/emu/src/memory-backend.ts'
import { emu } from './harness/emu.ts'
import { createPeer, movePeer, type Peer, type PeerKind } from './harness/peers.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 2 ** 20
const no72 = stockQemuMissing()
const no10 = stockQemu10Missing()
for (const reason of [no72, no10]) if (reason) console.warn(`skipped: ${reason}`)

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

async function travel(chain: readonly PeerKind[], capabilities: readonly string[]): Promise<void> {
  const kernel = join(folder.path, 'guest.bin')
  const image = { dirtyBytes: 12 * MiB, dirtyBytesPerSecond: 16 * MiB, lcgStepsPerSecond: 200_000, linesPerSecond: 20 }
  writeFileSync(kernel, embeddedGuestImage({ ...image, earlyTimer: true }))
  const guest = createGuestMonitor()
  const ramFile = join(folder.path, 'ram')
  const boot = { kernel, ramBytes: 32 * MiB, ramFile, onOutput: (text: string) => guest.push(text) }
  let here: Peer = await createPeer(chain[0]!, 'source', boot, folder.path)
  try {
    await here.start()
    await guest.until((g) => (g.last?.passes ?? 0) > 0, 60_000)
    for (const kind of chain.slice(1)) {
      const there = await createPeer(kind, 'destination', boot, folder.path)
      const settings = { capabilities, parameters: { 'downtime-limit': 2000, 'max-bandwidth': 0 } }
      await here.configure(settings)
      await there.configure(settings)
      let info: any
      await movePeer(here, there, undefined, async (from) => {
        for (;;) {
          info = await from.info()
          if (info.status === 'completed' || info.status === 'failed') return
          await delay(10)
        }
      })
      // Flash and ROM are zeros, nearly; the 12 MiB that the guest has filled are not in the stream, nor counted.
      expect(info.ram.normal).toBeLessThan(32)
      expect(info.ram.total).toBeLessThan(66 * MiB)
      here = there
      const { lines } = guest
      await guest.until((g) => g.lines > lines + 3, 60_000)
    }
    here.type('q')
    await guest.until((g) => g.verdicts.length > 0, 60_000)
    expect([guest.problems, guest.verdicts[0]!.ok]).toEqual([[], true])
  } finally {
    await here[Symbol.asyncDispose]()
  }
}

describe.skipIf(no72)('memory in a shared file', { timeout: 180_000 }, () => {
  const chains: readonly (readonly [chain: readonly PeerKind[], capabilities: readonly string[]])[] = [
    [['emu-7.2', '7.2', 'emu-7.2', 'emu-7.2'], ['x-ignore-shared']],
    [['emu-10.0', '10.0', 'emu-10.0'], ['x-ignore-shared']],
    [
      ['emu-10.0', 'emu-10.0'],
      ['x-ignore-shared', 'multifd'],
    ],
  ]
  for (const [chain, capabilities] of chains) {
    it.skipIf(no10 !== undefined && chain.includes('10.0'))(
      `${chain.join(' to ')}, ${capabilities.join(' and ')}`,
      () => travel(chain, capabilities),
    )
  }
})

describe('a memory back-end', () => {
  it('begins with what is in its file, and leaves there what the guest had', { timeout: 60_000 }, async () => {
    const ram = join(folder.path, 'ram')
    const backend = (share: string) => `memory-backend-file,id=m,size=16M,mem-path=${ram},share=${share}`
    const run = async (share: string) => {
      const machine = emu(
        ['run', '-M', 'virt,memory-backend=m', '-object', backend(share), '-guest', 'dirtyBytes=2M', '-nographic'],
        folder.path,
      )
      await machine.until('T 3 ', 60_000)
      machine.type('\x01x')
      expect((await machine.exited).code).toBe(0)
    }
    await run('off')
    expect(statSync(ram)).toMatchObject({ size: 16 * MiB, blocks: 0 })
    await run('on')
    expect(statSync(ram).blocks).toBeGreaterThan((2 * MiB) / 512)
  })

  it.each([
    ['id=m,size=16M', 'mem-path belongs to memory-backend-file'],
    ['id=m,mem-path=x', 'id and size are needed'],
    ['id=m,size=5,mem-path=x', 'size is 1M to 3G'],
    ['id=m,size=16M,mem-path=x,merge=on', "unknown property 'merge'"],
  ])('%s: %s', (text, problem) => {
    expect(() => MemoryBackend.among([`memory-backend-file,${text}`])).toThrow(problem)
  })

  it('is refused when its file is shorter than it, or a folder', async () => {
    const ram = join(folder.path, 'ram')
    writeFileSync(ram, 'short')
    for (const [path, problem] of [
      [ram, 'it has 5 bytes'],
      [folder.path, 'directory'],
    ] as const) {
      const { backends } = MemoryBackend.among([`memory-backend-file,id=m,size=16M,mem-path=${path}`])
      await expect(backends[0]!.open()).rejects.toThrow(problem)
    }
  })
})
