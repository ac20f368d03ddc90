import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { zstdDecompressSync } from 'node:zlib'
import { BytesSink, bytesSource, upgradeStream } from '@ferryvm/stream'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { stockQemu10, stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, startStockQemu, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

/** A saved guest of one stock QEMU, converted, goes on in the other. The guest checks itself and counts its errors. */
const shared = resolve(import.meta.dirname, '../../shared/streams')
const missing = stockQemuMissing() ?? stockQemu10Missing()
if (missing) console.log(`converted streams in stock QEMU: skipped, ${missing}`)

const DISK = ['-drive', 'if=none,id=d0,file=pattern.img,format=raw,snapshot=on']
const DEVICES: Record<string, string[]> = {
  'bm-bare': [],
  'bm-stopped-smp2': ['-smp', '2'],
  'bm-vector': ['-cpu', 'rv64,v=true'],
  'bm-pci-smp2': ['-smp', '2', ...DISK, '-device', 'virtio-blk-pci,drive=d0', '-device', 'virtio-rng-pci'],
  'bm-mmio-smp2': ['-smp', '2', ...DISK, '-device', 'virtio-blk-device,drive=d0', '-device', 'virtio-rng-device'],
}

describe.skipIf(missing)('a converted stream', () => {
  let folder: { path: string; remove: () => void }
  beforeAll(() => {
    folder = scratchFolder()
    writeFileSync(join(folder.path, 'pattern.img'), pattern())
  })
  afterAll(() => folder.remove())

  it.each(Object.keys(DEVICES).flatMap((name) => [[name, '7.2', '10.0'] as const, [name, '10.0', '7.2'] as const]))(
    '%s of %s goes on in %s',
    { timeout: 60_000 },
    async (name, from, to) => {
      const file = `${from === '7.2' ? 'rv72' : 'rv100'}-${name}.mig.zst`
      const sink = new BytesSink()
      const stream = new Uint8Array(zstdDecompressSync(readFileSync(join(shared, file))))
      await upgradeStream(bytesSource(stream), sink, to, { nudge: true })
      const saved = join(folder.path, `${from}-${name}.mig`)
      writeFileSync(saved, sink.bytes())

      let console_ = ''
      const devices = DEVICES[name]!.map((a) => a.replace('pattern.img', join(folder.path, 'pattern.img')))
      const bare = ['-M', 'virt', '-m', '16M', '-bios', 'none', '-kernel', join(shared, 'guest/bm.elf')]
      const qemu = await startStockQemu(
        folder.path,
        [...bare, ...devices, '-incoming', `exec:cat ${saved}`],
        (chunk) => {
          console_ += chunk
        },
        to === '10.0' ? stockQemu10() : undefined,
      )
      try {
        const lines = () => [...console_.matchAll(/^T ([0-9a-f]+) .* E ([0-9a-f]+)\r?$/gm)]
        const deadline = Date.now() + 40_000
        let resumed = false
        while (lines().length < 4 && Date.now() < deadline) {
          await sleep(50)
          if (resumed) continue
          const { status } = await qemu.qmp('query-status').catch(() => ({ status: 'gone' }))
          if (status === 'paused') await qemu.qmp('cont')
          resumed = status === 'paused' || status === 'running'
        }
        const found = lines()
        expect(found.length, `${console_}${qemu.stderr}`).toBeGreaterThanOrEqual(4)
        expect(new Set(found.map(([, , errors]) => errors))).toEqual(new Set(['0000']))
        const ticks = found.map(([, t]) => Number.parseInt(t!, 16))
        // A line comes once twenty ticks have passed. On a busy host the guest catches up with several at once, before it
        // prints: one that was never moved shows steps of up to 24 there. A step of 40 would be a line that is missing.
        const steps = ticks.slice(1).map((tick, i) => tick - ticks[i]!)
        expect(Math.min(...steps), `${ticks}`).toBeGreaterThanOrEqual(20)
        expect(Math.max(...steps), `${ticks}`).toBeLessThan(40)
      } finally {
        await qemu.kill()
      }
    },
  )
})

/** Sector s is 64 times the little-endian s * 0x9e3779b97f4a7c15. */
function pattern(): Uint8Array {
  const words = new BigUint64Array((4 << 20) / 8)
  for (let i = 0; i < words.length; i++) words[i] = BigInt.asUintN(64, BigInt(i >> 6) * 0x9e3779b97f4a7c15n)
  return new Uint8Array(words.buffer)
}
