import { describe, expect, it } from 'vitest'
import { stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { STEPS } from './cutting-proxy.ts'
import { killAndReconcile, type ReconcileFate, type ReconcileKill } from './reconcile-kills.ts'

const no72 = stockQemuMissing()
const step = (name: string) => STEPS.find((s) => s.name === name)!

/** The whole plan is `pnpm reconcile:kills`. */
const kills: readonly (ReconcileKill & { readonly fates: readonly ReconcileFate[] })[] = [
  { victim: 'source', step: step('half of the package'), to: 'emu-7.2', fates: ['reconciled, switch'] },
  // Devices may look into rings, and ask for pages, before the guest runs.
  {
    victim: 'source',
    step: step('behind ping 4'),
    to: '7.2',
    fates: ['reconciled, destination', 'reconciled, switch'],
  },
  // The one that is killed may have begun to run the guest, and noted that, or not quite.
  { victim: 'destination', step: step('pong 4'), to: 'emu-7.2', fates: ['reconciled, switch', 'reconciled, back'] },
]

describe('a guest that is put together after one side was killed', { timeout: 180_000 }, () => {
  for (const { fates, ...kill } of kills) {
    it.skipIf(no72 !== undefined && kill.to === '7.2')(
      `${kill.victim} at "${kill.step.name}", loaded by ${kill.to}`,
      async () => {
        expect(fates).toContain(await killAndReconcile(kill))
      },
    )
  }
})
