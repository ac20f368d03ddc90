import { bufferReader } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { receiveReturnPath } from './return-path.ts'

const message = (type: number, ...payload: number[]) => [0, type, 0, payload.length, ...payload]
const receive = (bytes: number[]) => {
  const pongs: number[] = []
  return receiveReturnPath(bufferReader(Uint8Array.from(bytes)), { pong: (value) => void pongs.push(value) }).then(
    () => pongs,
    (e: Error) => e.message,
  )
}

describe('the return path (ram.md section 10)', () => {
  it('ends with SHUT; the bytes are those of the reference', async () => {
    expect(await receive([...message(2, 0, 0, 0, 1), ...message(7), ...message(1, 0, 0, 0, 0)])).toEqual([1])
  })
  it.each<[string, number[], RegExp]>([
    ['failure reported', message(1, 0, 0, 0, 1), /failed to load the stream \(status 1\)/],
    ['silence', [], /went away before it had loaded everything/],
    ['half a message', [0, 2, 0], /went away/],
    ['type 0', message(0), /unknown message 0/],
    ['an unknown type', message(8), /unknown message 8/],
    ['a wrong length', message(2, 0, 1), /PONG with 2 bytes/],
    [
      'page requests',
      message(4, ...new Array(12).fill(0)),
      /REQ_PAGES on the return path of a migration without postcopy/,
    ],
  ])('%s', async (_, bytes, problem) => {
    expect(await receive(bytes)).toMatch(problem)
  })
})
