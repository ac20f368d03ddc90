import { expect, it } from 'vitest'
import { createWriteLog } from './write-log.ts'

it('marks whole chunks, finds them in order, and counts each once', async () => {
  const log = createWriteLog(1000 * 512 + 100, 1024)
  const marks = () => {
    const found: number[] = []
    for (let chunk = log.next(0); chunk >= 0; chunk = log.next(chunk + 1)) found.push(chunk)
    return found
  }
  expect([log.count, log.next(0)]).toEqual([0, -1])
  const marked = log.marked()
  log.mark(1023, 2)
  await marked
  log.mark(0, 512)
  log.mark(31 * 1024, 2048)
  log.mark(500 * 1024, 10_000_000)
  expect(marks()).toEqual([0, 1, 31, 32, 500])
  expect(log.count).toBe(5)
  log.clear(31)
  log.clear(31)
  expect([log.count, log.next(2), log.isMarked(31), log.isMarked(32)]).toEqual([4, 32, false, true])
})

it('tells who waits for a mark that there will be none', async () => {
  let gone = false
  const log = createWriteLog(4096, 512, () => void (gone = true))
  const marked = log.marked()
  log[Symbol.dispose]()
  await marked
  expect(gone).toBe(true)
})
