import { expect, it } from 'vitest'
import { chainOfKills } from './chain-of-kills.ts'

/** More of it: `pnpm colo:kills`. */
const KILLS = 3

it(`a guest outlives ${KILLS} machines that are killed, and knows of nothing`, { timeout: 300_000 }, async () => {
  const { kills, takeoverMs } = await chainOfKills(KILLS)
  expect(kills.primary + kills.secondary).toBe(KILLS)
  expect(takeoverMs).toHaveLength(KILLS)
})
