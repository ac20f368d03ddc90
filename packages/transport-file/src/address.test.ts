import { describe, expect, it } from 'vitest'
import { formatFileAddress, parseFileAddress } from './address.ts'

describe('file addresses (protocol.md section 7)', () => {
  it.each([
    ['/a', '/a', 0],
    ['a:b,c', 'a:b,c', 0],
    ['/a,offset=4096', '/a', 4096],
    ['/a,offset=0x1000', '/a', 4096],
    ['/a,offset=4k', '/a', 4096],
    ['/a,offset=1.5M', '/a', 1_572_864],
    ['/a,offset=2G', '/a', 2 ** 31],
    ['/a,offset=1T', '/a', 2 ** 40],
    ['/a,b,offset=7B', '/a,b', 7],
  ])('%s', (text, path, offset) => {
    const address = parseFileAddress(text)
    expect(address).toEqual({ path, offset })
    expect(parseFileAddress(formatFileAddress(address))).toEqual(address)
  })
  it.each([
    ['', 'the path is empty'],
    [',offset=1', 'the path is empty'],
    ['/a,offset=', '"" is not a size'],
    ['/a,offset=-1', '"-1" is not a size'],
    ['/a,offset=4Q', '"4Q" is not a size'],
    ['/a,offset=0x10K', '"0x10K" is not a size'],
    ['/a,offset=1,offset=2', '"1,offset=2" is not a size'],
    ['/a,offset=0.3', 'not a whole number of bytes'],
    ['/a,offset=9E', 'beyond 2^53'],
    ['/a\0b', 'zero byte'],
  ])('%j is refused: %s', (text, problem) => {
    expect(() => parseFileAddress(text)).toThrow(problem)
  })
})
