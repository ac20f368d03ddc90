import { describe, expect, it } from 'vitest'
import { findLinuxGuest, linuxGuestMissing } from '../../tooling/guest/linux-guest.ts'
import { chainOfKills } from './chain-of-kills.ts'
import { RecordGuest } from './record-guest.ts'
import { strikeChain } from './strikes.ts'

/** More of it: `pnpm colo:kills`. */
const KILLS = 3

const linux = findLinuxGuest()
const missing = linuxGuestMissing() ?? (linux?.opensbi ? undefined : 'no OpenSBI firmware (package opensbi)')
if (missing) console.warn(`skipped: ${missing}`)

it(`a guest outlives ${KILLS} machines that are killed, and knows of nothing`, { timeout: 300_000 }, async () => {
  const { kills, takeoverMs } = await chainOfKills(KILLS)
  expect(kills.primary + kills.secondary).toBe(KILLS)
  expect(takeoverMs).toHaveLength(KILLS)
})

describe.skipIf(missing && !process.env.FERRY_REQUIRE_QEMU)('Linux that writes numbered records with fsync', () => {
  it('has on the disk and in memory what it printed, whatever is killed or cut', { timeout: 900_000 }, async () => {
    if (missing) throw new Error(`FERRY_REQUIRE_QEMU asks for Linux, and there is ${missing}`)
    const seed = Date.now() % 2 ** 32
    const strikes = ['kill primary', 'cut path 1', 'cut link', 'kill primary'] as const
    const { counts, printed } = await strikeChain((folder) => new RecordGuest(linux!, folder), strikes, seed)
    expect([...counts]).toEqual([
      ['kill primary', 2],
      ['cut path 1', 1],
      ['cut link', 1],
    ])
    expect(printed).toBeGreaterThan(8)
  })
})
