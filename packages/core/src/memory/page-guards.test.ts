import { describe, expect, it } from 'vitest'
import { GuestMemory, PAGE_BYTES } from './guest-memory.ts'
import { PhysicalMap } from './physical-map.ts'

function build(pages = 8) {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const block = memory.addBlock('ram', pages * PAGE_BYTES)
  map.addRam(0x8000_0000, block)
  const first = block.offset / PAGE_BYTES
  /** A guard of some pages, which keeps the first byte of each. */
  const guard = (from: number, count: number, full = () => false) => {
    const kept: [page: number, byte: number][] = []
    const made = memory.guards.create({
      beforeWrite: (page) => kept.push([page - first, block.bytes[(page - first) * PAGE_BYTES]!]),
      full,
    })
    made.add(first + from, count)
    return { made, kept }
  }
  return { memory, map, block, first, guard, guards: memory.guards }
}

describe('guarded pages', () => {
  it('are shown before a device writes them, once, with what was in them', () => {
    const { map, block, guard, first } = build()
    block.bytes.fill(5)
    const { made, kept } = guard(1, 3)
    expect(made.count).toBe(3)
    map.write(0x8000_0000 + 4 * PAGE_BYTES - 1, new Uint8Array([1, 2]))
    map.mmioWrite(0x8000_1008, 8, 7n)
    map.mmioWrite(0x8000_1000, 1, 9n)
    map.write(0x8000_0000, new Uint8Array(2 * PAGE_BYTES).fill(6))
    expect(kept).toEqual([
      [3, 5],
      [1, 5],
    ])
    expect(made.count).toBe(1)
    expect([0, 1, 2, 3].map((page) => made.has(first + page))).toEqual([false, false, true, false])
    made[Symbol.dispose]()
  })

  it('belong to several guards at once, and are free when the last lets go', () => {
    const { guards, guard, first, block } = build()
    const a = guard(0, 4)
    const b = guard(2, 4)
    a.made.release(first)
    a.made.release(first + 2)
    expect([0, 1, 2, 3, 4, 5, 6].map((page) => guards.has(first + page))).toEqual([
      false,
      ...Array<boolean>(5).fill(true),
      false,
    ])
    block.bytes[3 * PAGE_BYTES] = 8
    expect(guards.claim(first + 3)).toBe(true)
    expect([a.kept, b.kept]).toEqual([[[3, 8]], [[3, 8]]])
    expect(guards.has(first + 3)).toBe(false)
    a.made[Symbol.dispose]()
    expect(guards.has(first + 1)).toBe(false)
    expect(guards.has(first + 5)).toBe(true)
    b.made[Symbol.dispose]()
    expect(guards.has(first + 5)).toBe(false)
  })

  it('are not given to a hart while a guard is full, but to a device', async () => {
    const { guards, guard, first, map, memory } = build()
    let full = true
    const { made, kept } = guard(0, 2, () => full)
    const active = new Int32Array(memory.buffer, memory.dirtyLog.offsets.guardsActive, 1)
    expect(active[0]).toBe(1)
    expect(guards.claim(first)).toBe(false)
    expect(guards.claim(first + 2)).toBe(true)
    let came = false
    const writable = guards.writable(first).then(() => (came = true))
    await guards.writable(first + 2)
    expect(came).toBe(false)
    map.write(0x8000_1000, new Uint8Array(1))
    expect(kept).toEqual([[1, 0]])
    full = false
    made.proceed()
    await writable
    expect(guards.claim(first)).toBe(true)
    made[Symbol.dispose]()
    expect(active[0]).toBe(0)
  })

  it('let a hart go on when the guard that holds them ends', async () => {
    const { guards, guard, first } = build()
    const { made } = guard(0, 1, () => true)
    expect(guards.claim(first)).toBe(false)
    const writable = guards.writable(first)
    made[Symbol.dispose]()
    await writable
    expect(guards.claim(first)).toBe(true)
  })
})
