import { readFileSync } from 'node:fs'
import { checkText } from '@ferryvm/stream'
import { expect, it } from 'vitest'
import { changesSinceLock, currentTables, formatLock, lockFile } from '../tooling/vmstate-lock.ts'

const ACCEPT = 'if that is meant, say so: pnpm vmstate:lock --accept, and commit docs/vmstate.lock.json'

it('streams that released builds wrote still load: no table has changed without the lock file', async () => {
  const dumps = await currentTables()
  const changes = changesSinceLock(dumps)
  const breaking = changes.filter((c) => c.effect === 'breaks')
  expect([...checkText(breaking)].slice(breaking.length === 0 ? 1 : 0), `older streams break; ${ACCEPT}`).toEqual([])
  expect(
    changes.map(({ where, what }) => `${where}: ${what}`),
    `tables have changed, and older streams still load; ${ACCEPT}`,
  ).toEqual([])
  expect(formatLock(dumps) === readFileSync(lockFile, 'utf8'), `the lock file is not up to date; ${ACCEPT}`).toBe(true)
})
