import { describe, expect, it } from 'vitest'
import { JsonStream } from './json-stream.ts'

describe('JsonStream (clients.md section 1: values, not lines)', () => {
  it('takes values however they are separated, and wherever they are cut', () => {
    const text = '{"a":1}{"b":"}\\"{"}\r\n\n  [1,[2]]{"c":{"d":"\\\\"}}'
    const want = [{ value: { a: 1 } }, { value: { b: '}"{' } }, { value: [1, [2]] }, { value: { c: { d: '\\' } } }]
    expect(new JsonStream().push(text)).toEqual(want)
    const slow = new JsonStream()
    expect([...text].flatMap((c) => slow.push(c))).toEqual(want)
  })
  it('goes on behind what is broken', () => {
    const stream = new JsonStream()
    expect(stream.push('{"a" 1}{"b":2}')).toEqual([{ error: 'Invalid JSON syntax' }, { value: { b: 2 } }])
    expect(stream.push('hello\n{"c":3}')).toEqual([{ error: 'Invalid JSON syntax' }, { value: { c: 3 } }])
    expect(stream.push('}{"d":4}')).toEqual([{ error: 'Invalid JSON syntax' }, { value: { d: 4 } }])
  })
  it('does not collect without end', () => {
    const stream = new JsonStream()
    const chunk = `"${'x'.repeat(1 << 20)}"`
    const events = [...stream.push('['), ...Array.from({ length: 10 }, () => stream.push(`${chunk},`)).flat()]
    expect(events[0]).toMatchObject({ error: expect.stringContaining('longer than') })
  })
})
