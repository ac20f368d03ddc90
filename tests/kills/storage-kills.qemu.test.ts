import { expect, it } from 'vitest'
import { stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { killStorage } from './storage-kills.ts'

const missing = stockQemuMissing()

it.skipIf(missing)(
  `a destination killed while disks are copied leaves the guest where it is${missing ? ` (skipped: ${missing})` : ''}`,
  { timeout: 240_000 },
  async () => {
    const kill = { pair: ['emu-7.2', 'emu-7.2'], victim: 'destination', step: 'disks', afterMs: 0 } as const
    expect(await killStorage(kill)).toBe('at the source')
  },
)
