import { expect, it } from 'vitest'
import { isZeroFilled } from './is-zero-filled.ts'

it('finds a byte anywhere, however the array lies in its buffer', () => {
  const buffer = new Uint8Array(64)
  for (let start = 0; start < 8; start++) {
    for (let length = 0; length < 24; length++) {
      const bytes = buffer.subarray(start, start + length)
      buffer.fill(1)
      bytes.fill(0)
      expect(isZeroFilled(bytes)).toBe(true)
      for (let at = 0; at < length; at++) {
        bytes[at] = 1
        expect(isZeroFilled(bytes), `${start} ${length} ${at}`).toBe(false)
        bytes[at] = 0
      }
    }
  }
})
