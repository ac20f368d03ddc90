/** A few of `pnpm postcopy:kills`: one of every kind where it matters most. */
import { expect, it } from 'vitest'
import { stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { STEPS } from './cutting-proxy.ts'
import { type Fate, type Kill, killOnce } from './postcopy-kills.ts'

const no72 = stockQemuMissing()
if (no72) console.warn(`skipped: ${no72}`)
const ours = ['emu-7.2', 'emu-7.2'] as const

it.each<[step: string, Kill['victim'], Kill['pair'], Fate]>([
  ['discard', 'link', ours, 'at the source'],
  ['ping 2', 'destination', ours, 'at the source'],
  ['pong 3', 'link', ours, 'recovered'],
  ['fifth request', 'link', ['7.2', 'emu-7.2'], 'recovered'],
])('at "%s" the %s of %s breaks: the guest is %s', { timeout: 120_000 }, async (name, victim, pair, fate) => {
  if (no72 && pair !== ours) return
  const step = STEPS.find((s) => s.name === name)!
  expect(await killOnce({ pair, victim, step })).toBe(fate)
})
