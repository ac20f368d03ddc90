/** A few of `pnpm postcopy:kills`: one of every kind where it matters most. */
import { expect, it } from 'vitest'
import { stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { STEPS } from './cutting-proxy.ts'
import { type Fate, type Kill, killOnce } from './postcopy-kills.ts'

const no72 = stockQemuMissing()
if (no72) console.warn(`skipped: ${no72}`)
const ours = ['emu-7.2', 'emu-7.2'] as const

const kills: readonly (readonly [step: string, victim: Kill['victim'], pair: Kill['pair'], fate: Fate])[] = [
  ['discard', 'link', ours, 'at the source'],
  ['ping 2', 'destination', ours, 'at the source'],
  ['pong 3', 'link', ours, 'recovered'],
  ['fifth request', 'link', ['7.2', 'emu-7.2'], 'recovered'],
]
for (const [name, victim, pair, fate] of kills) {
  const title = `at "${name}" the ${victim} of ${pair.join(' to ')} breaks: the guest is ${fate}`
  it.skipIf(no72 && pair !== ours)(title, { timeout: 120_000 }, async () => {
    const step = STEPS.find((s) => s.name === name)!
    expect(await killOnce({ pair, victim, step })).toBe(fate)
  })
}
