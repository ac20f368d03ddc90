/** Guests in files: saved by `emu` and loaded by stock QEMU, and the other way round. */
import { execFileSync } from 'node:child_process'
import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { main } from './harness/emu.ts'
import { createPeer, type Peer, type PeerKind } from './harness/peers.ts'
import { createDisk } from './harness/vm.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 2 ** 20
const no72 = stockQemuMissing()
const no10 = stockQemu10Missing()
for (const reason of [no72, no10]) if (reason) console.warn(`skipped: ${reason}`)

/** One hop: who saves, how, who loads, how. FILE stands for the file. */
interface Hop {
  readonly save: string
  readonly load: string
  readonly to: PeerKind
}
const ROUTES: readonly { readonly first: PeerKind; readonly hops: readonly Hop[] }[] = [
  {
    first: 'emu-7.2',
    hops: [
      { save: 'exec:cat > FILE', to: '7.2', load: 'exec:cat FILE' },
      { save: 'exec:cat > FILE', to: 'emu-7.2', load: 'exec:cat FILE' },
      { save: 'file:FILE,offset=64K', to: '7.2', load: 'exec:tail -c +65537 FILE' },
      { save: 'exec:gzip -1c > FILE', to: 'emu-7.2', load: 'exec:gzip -dc FILE' },
      { save: 'file:FILE', to: '7.2', load: 'exec:cat FILE' },
      { save: 'exec:cat > FILE', to: 'emu-7.2', load: 'file:FILE' },
    ],
  },
  {
    first: 'emu-10.0',
    hops: [
      { save: 'file:FILE,offset=64K', to: '10.0', load: 'file:FILE,offset=0x10000' },
      { save: 'file:FILE,offset=0x1000', to: 'emu-10.0', load: 'file:FILE,offset=4K' },
      { save: 'exec:cat > FILE', to: '10.0', load: 'file:FILE' },
      { save: 'file:FILE', to: 'emu-10.0', load: 'exec:cat FILE' },
    ],
  },
]

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

describe.skipIf(no72)('the embedded guest, saved into files', { timeout: 120_000 }, () => {
  for (const { first, hops } of ROUTES) {
    const name = hops.map(({ save, to, load }) => `${save} | ${load} ${to}`).join(', ')
    it.skipIf(hops.some(({ to }) => to === '10.0') && no10)(`${first}: ${name}`, async () => {
      const kernel = join(folder.path, 'guest.bin')
      const image = { dirtyBytes: 4 * MiB, dirtyBytesPerSecond: 4 * MiB, lcgStepsPerSecond: 200_000 }
      writeFileSync(kernel, embeddedGuestImage({ ...image, linesPerSecond: 20, earlyTimer: true }))
      const disk = { path: createDisk(join(folder.path, 'disk.img'), 8 * MiB), bus: 'pcie.0' } as const
      const guest = createGuestMonitor()
      const boot = { kernel, ramBytes: 32 * MiB, disk, onOutput: (text: string) => guest.push(text) }
      let here: Peer = await createPeer(first, 'source', boot, folder.path)
      try {
        await here.start()
        await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
        for (const [i, { save, to, load }] of hops.entries()) {
          const file = join(folder.path, `state${i}`)
          await here.send(save.replace('FILE', file))
          await here[Symbol.asyncDispose]()
          expect(statSync(file).size).toBeGreaterThan(100_000)
          here = await createPeer(to, 'destination', boot, folder.path)
          await here.listen(load.replace('FILE', file))
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
      // The tool reads what was saved last, to its end.
      const last = hops.findLastIndex(({ save }) => !save.includes('offset') && !save.includes('gzip'))
      const args = ['--conditions=source', '--disable-warning=ExperimentalWarning', main, 'inspect', '--json']
      const report = JSON.parse(
        execFileSync(process.execPath, [...args, join(folder.path, `state${last}`)], { maxBuffer: 2 ** 28 }).toString(),
      )
      expect(JSON.stringify(report)).toContain('virtio-blk')
    })
  }
})
