/** Recorded streams of stock QEMU 7.2 and 10.0 arrive on the whole board, with the profile of their release and the other. */
import { existsSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { zstdDecompressSync } from 'node:zlib'
import { memoryBlock, virtioBlk, virtioRng } from '@ferryvm/devices-virtio'
import { describe, expect, it } from 'vitest'
import { createVm } from './harness/vm.ts'

const folder = resolve(import.meta.dirname, '../../shared/streams')
const here = existsSync(folder)
if (!here) console.warn('skipped: recorded streams, ../shared/streams is not here')

/** The recorded disk's contents do not matter here. */
const drive = memoryBlock(new Uint8Array(2 ** 20))

const guests: readonly { name: string; harts: number; bus?: 'pcie.0' | 'virtio-mmio' }[] = [
  { name: 'bm-bare', harts: 1 },
  { name: 'bm-pci-smp2', harts: 2, bus: 'pcie.0' },
  { name: 'bm-mmio-smp2', harts: 2, bus: 'virtio-mmio' },
]

describe.skipIf(!here)('a recorded guest of stock QEMU', () => {
  for (const release of ['72', '100']) {
    for (const { name, harts, bus } of guests) {
      it.each(['qemu-7.2', 'qemu-10.0'] as const)(`rv${release}-${name} goes on with profile %s`, async (profile) => {
        const stream = zstdDecompressSync(readFileSync(resolve(folder, `rv${release}-${name}.mig.zst`)))
        let output = ''
        await using vm = await createVm({
          profile,
          harts,
          ramBytes: 16 * 2 ** 20,
          checkLoadOrder: true,
          devices: bus ? [virtioBlk({ drive }, { bus }), virtioRng({}, { bus })] : [],
          onOutput: (text) => void (output += text),
        })
        const { uri, done } = await vm.migration.incoming('tcp:127.0.0.1:0')
        connect(Number(uri.split(':').at(-1)), '127.0.0.1').end(stream)
        await done
        const lines = () => [...output.matchAll(/^T ([0-9a-f]{6}) M .* F /gm)]
        for (let i = 0; i < 200 && lines().length < 2; i++) await delay(50)
        const ticks = lines()
        expect(ticks.length).toBeGreaterThan(1)
        // It was recorded at tick 0xc8.
        expect(Number.parseInt(ticks[0]![1]!, 16)).toBeGreaterThanOrEqual(0xc8)
        expect(Number.parseInt(ticks[0]![1]!, 16)).toBeLessThan(0x180)
      })
    }
  }

  it('that was stopped stays stopped', async () => {
    const stream = zstdDecompressSync(readFileSync(resolve(folder, 'rv72-bm-stopped-smp2.mig.zst')))
    await using vm = await createVm({ harts: 2, ramBytes: 16 * 2 ** 20, onOutput() {} })
    const { uri, done } = await vm.migration.incoming('tcp:127.0.0.1:0')
    connect(Number(uri.split(':').at(-1)), '127.0.0.1').end(stream)
    await done
    expect(vm.machine.runState).toBe('paused')
  })

  it('with the vector extension is refused by name', async () => {
    const stream = zstdDecompressSync(readFileSync(resolve(folder, 'rv72-bm-vector.mig.zst')))
    await using vm = await createVm({ ramBytes: 16 * 2 ** 20, onOutput() {} })
    const { uri, done } = await vm.migration.incoming('tcp:127.0.0.1:0')
    connect(Number(uri.split(':').at(-1)), '127.0.0.1').end(stream)
    await expect(done).rejects.toThrow(/env\.misa_ext.* V,/)
  })
})
