import { bufferWriter, type SaveStateRegistry, StreamSaver } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { ReadMarks } from './read-marks.ts'

const noSections = { entries: () => [] } as unknown as SaveStateRegistry
const never = new Promise<void>(() => {})

function link() {
  const f = bufferWriter()
  return { f, saver: new StreamSaver(f, noSections), marks: new ReadMarks() }
}

/** Values of the PINGs that were put, which are all there is. */
function pings(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer)
  return Array.from({ length: bytes.length / 9 }, (_, i) => view.getUint32(i * 9 + 5))
}

describe('marks of what the destination has read', () => {
  it('counts what lies before the PING that was answered last', () => {
    const { f, saver, marks } = link()
    marks.mark(saver, f)
    marks.mark(saver, f)
    const [first, second] = pings(f.bytes())
    expect(marks).toMatchObject({ marked: 18, read: 0 })
    marks.pong(first!)
    expect(marks.read).toBe(9)
    marks.pong(second!)
    expect(marks.read).toBe(18)
  })

  it('takes an answer for those before it, and none that was not asked for', () => {
    const { f, saver, marks } = link()
    marks.mark(saver, f)
    marks.mark(saver, f)
    marks.pong(1)
    expect(marks.read).toBe(0)
    marks.pong(pings(f.bytes())[1]!)
    expect(marks.read).toBe(18)
  })

  it('waits until everything was read', async () => {
    const { f, saver, marks } = link()
    marks.pong(1) // it is one that answers
    marks.mark(saver, f)
    let done = false
    const reading = marks.allRead(saver, f, never, new AbortController().signal).then(() => (done = true))
    const [first, last] = pings(f.bytes())
    marks.pong(first!)
    await Promise.resolve()
    expect(done).toBe(false)
    marks.pong(last!)
    await reading
  })

  it('does not wait for ever for a destination that never answers, nor for one that is gone', async () => {
    const { f, saver, marks } = link()
    const { signal } = new AbortController()
    await marks.allRead(saver, f, never, signal)
    marks.pong(1)
    await marks.allRead(saver, f, Promise.reject(new Error('gone')), signal)
  })

  it('ends with the reason of an abort', async () => {
    const { f, saver, marks } = link()
    marks.pong(1)
    const abort = new AbortController()
    const reading = marks.allRead(saver, f, never, abort.signal)
    abort.abort(new Error('cancelled'))
    await expect(reading).rejects.toThrow('cancelled')
  })

  it('lets more be on its way after answers than without', () => {
    const { f, saver, marks } = link()
    const least = marks.aheadBytes
    expect(least).toBeGreaterThan(0)
    for (let i = 0; i < 8; i++) {
      f.putBuffer(new Uint8Array(2 ** 22))
      marks.mark(saver, f)
    }
    for (let value = 16; value < 24; value++) marks.pong(value)
    expect(marks.read).toBe(marks.marked)
    expect(marks.aheadBytes).toBeGreaterThan(least)
  })
})
