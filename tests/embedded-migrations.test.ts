import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { expect, it } from 'vitest'
import { createDisk, createVm, diskBehindIommu, move } from './harness/vm.ts'

const ROUNDS = Number(process.env.FERRY_MIGRATIONS ?? 200)

it(`the embedded guest survives ${ROUNDS} migrations at random moments, nothing lost, nothing repeated`, {
  timeout: 600_000,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-moves-'))
  const disk = createDisk(join(folder, 'disk.img'), 8 * 2 ** 20)
  const kernel = embeddedGuestImage({
    dirtyBytes: 4 * 2 ** 20,
    dirtyBytesPerSecond: 4 * 2 ** 20,
    lcgStepsPerSecond: 200_000,
    linesPerSecond: 20,
  })
  const guest = createGuestMonitor()
  const side = async () =>
    createVm({
      kernel,
      ramBytes: 32 * 2 ** 20,
      devices: await diskBehindIommu(disk, { order: Math.random() < 0.5 ? 'best' : 'worst' }),
      onOutput: (text) => guest.push(text),
    })
  let here = await side()
  try {
    here.machine.start()
    await guest.until((g) => (g.last?.requests ?? 0) > 10, 30_000)
    for (let n = 0; n < ROUNDS; n++) {
      const there = await side()
      await delay(Math.random() * 150)
      await move(here, there)
      await here[Symbol.asyncDispose]()
      here = there
      expect(guest.problems, `after migration ${n + 1}`).toEqual([])
    }
    here.type('q')
    await guest.until((g) => g.verdicts.length > 0, 60_000)
    expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
    expect(guest.problems).toEqual([])
    expect(guest.verdicts[0]!.lines).toBe(guest.lines)
  } finally {
    await here[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  }
})
