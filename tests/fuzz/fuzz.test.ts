import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Random } from '../lockstep/random.ts'
import { loadSpecimens } from './corpus.ts'
import { FuzzCases } from './fuzz-case.ts'
import { guestCount, LoaderTarget } from './loader-target.ts'

/** A short run of what `pnpm fuzz:streams` does for hours: some cases of every guest. */
const CASES_PER_GUEST = 160
const SEED = 20261128

describe('damaged streams of stock QEMU', { timeout: 300_000 }, () => {
  let cases: FuzzCases
  beforeAll(async () => {
    cases = await FuzzCases.create(SEED)
  })
  afterAll(() => cases[Symbol.asyncDispose]())

  it.each(Array.from({ length: guestCount }, (_, i) => i))(
    'machine %i and the tools: a typed error or a good load',
    async (guest) => {
      const findings: unknown[] = []
      for (let i = 0; i < CASES_PER_GUEST; i++) {
        const number = guest * 2000 + i
        const { finding, ...result } = await cases.run(number)
        if (finding) findings.push({ number, ...result, finding })
      }
      expect(findings).toEqual([])
    },
  )
})

it('every specimen that a machine is given loads while it is whole', async () => {
  const specimens = await loadSpecimens()
  for (let guest = 0; guest < guestCount; guest++) {
    await using loader = await LoaderTarget.create(guest, specimens)
    for (const whole of loader.specimens)
      expect(await loader.load(whole.bytes, new Random(1), true), whole.name).toBeUndefined()
  }
})
