import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { lockFileFence } from './lock-file-fence.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferryvm-fence-'))
afterAll(() => rmSync(folder, { recursive: true }))

describe('lockFileFence', () => {
  it('is won by the first who asks, however often that one asks', async () => {
    const path = join(folder, 'fence')
    const [one, other] = [lockFileFence(path), lockFileFence(path)]
    await one.check()
    await other.check()
    expect(existsSync(path)).toBe(false)
    expect(await one.claim('primary')).toBe(true)
    expect(await other.claim('secondary')).toBe(false)
    expect(await one.claim('primary')).toBe(true)
    expect([one.lost, other.lost]).toEqual([false, true])
  })

  it('is won by one of many who ask at once', async () => {
    const path = join(folder, 'rush')
    const won = await Promise.all(Array.from({ length: 20 }, () => lockFileFence(path).claim('secondary')))
    expect(won.filter(Boolean)).toHaveLength(1)
  })

  it('says before a pair forms that it is taken, or could not be made', async () => {
    const path = join(folder, 'taken')
    await lockFileFence(path).claim('primary')
    await expect(lockFileFence(path).check()).rejects.toMatchObject({ code: 'FERRY_COLO_GUARD' })
    const nowhere = lockFileFence(join(folder, 'missing', 'fence'))
    await expect(nowhere.check()).rejects.toThrow(/could not be made/)
    await expect(nowhere.claim('primary')).rejects.toMatchObject({ code: 'FERRY_COLO_GUARD' })
  })
})
