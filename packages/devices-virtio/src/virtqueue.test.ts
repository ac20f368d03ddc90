import type { AddressSpace } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { gather, scatter, segmentBytes, Virtqueue } from './virtqueue.ts'

const MEMORY_BYTES = 0x4000
const DESC = 0x1000n
const F_EVENT_IDX = 1n << 29n

function bench({ size = 4, features = 0n } = {}) {
  const memory = new Uint8Array(MEMORY_BYTES)
  const view = new DataView(memory.buffer)
  const inside = (address: number, length: number) => address >= 0 && address + length <= MEMORY_BYTES
  const dma: AddressSpace = {
    read(a, into) {
      if (!inside(a, into.length)) return false
      into.set(memory.subarray(a, a + into.length))
      return true
    },
    write(a, from) {
      if (!inside(a, from.length)) return false
      memory.set(from, a)
      return true
    },
  }
  const failures: string[] = []
  let interrupts = 0
  const host = {
    dma,
    guestFeatures: features,
    usable: true,
    fail: (message: string) => {
      failures.push(message)
      host.usable = false
    },
    interrupt: () => void interrupts++,
  }
  const queue = new Virtqueue(0, size, 4096, host)
  return { memory, view, dma, host, queue, failures, interrupts: () => interrupts }
}

describe('Virtqueue', () => {
  it('lays out a legacy queue as virtio 1.2, section 2.7.2 says, also when size or alignment change later', () => {
    const { queue } = bench({ size: 4 })
    queue.setLegacyBase(DESC)
    expect([queue.avail, queue.used]).toEqual([DESC + 64n, 0x2000n])
    queue.size = 8
    expect([queue.avail, queue.used]).toEqual([DESC + 128n, 0x2000n])
    queue.align = 64
    expect(queue.used).toBe(DESC + 192n)
    queue.setLegacyBase(0n)
    expect(queue.ready).toBe(false)
  })

  it('takes no size that a ring cannot have', () => {
    const { queue } = bench()
    for (const size of [0, -1, 1025, 1.5]) queue.size = size
    expect(queue.size).toBe(4)
    queue.size = 1024
    queue.reset()
    expect(queue.size).toBe(4)
  })

  it('goes round its 16-bit indices', () => {
    const { queue, view, failures, interrupts } = bench({ size: 4 })
    queue.setRings(DESC, 0x2000n, 0x3000n)
    for (let i = 0; i < 4; i++) {
      view.setBigUint64(0x1000 + 16 * i, 0x100n, true)
      view.setUint32(0x1008 + 16 * i, 8, true)
      view.setUint16(0x2004 + 2 * i, i, true)
    }
    queue.lastAvailIdx = queue.usedIdx = 0xfffe
    view.setUint16(0x2002, 2, true)
    for (const expected of [2, 3, 0, 1]) {
      const element = queue.pop()!
      expect(element.index).toBe(expected)
      queue.push(element, 3)
    }
    expect(queue.pop()).toBeUndefined()
    expect(view.getUint16(0x3002, true)).toBe(2)
    expect([queue.inUse, interrupts(), failures]).toEqual([0, 4, []])
  })

  it('interrupts only when the used index passes used_event', () => {
    const { queue, view, interrupts } = bench({ size: 4, features: F_EVENT_IDX })
    queue.setRings(DESC, 0x2000n, 0x3000n)
    for (let i = 0; i < 4; i++) view.setUint32(0x1008 + 16 * i, 8, true)
    view.setUint16(0x2002, 4, true)
    view.setUint16(0x2004 + 8, 2, true) // used_event
    const counts = [0, 0, 0, 0].map(() => {
      queue.push(queue.pop()!, 0)
      return interrupts()
    })
    expect(counts, 'the first one always, then number 2').toEqual([1, 1, 2, 2])
    expect(view.getUint16(0x3004 + 32, true), 'avail_event').toBe(4)
  })

  it('asks not to be notified while it looks by itself', () => {
    const { queue, view } = bench()
    queue.setRings(DESC, 0x2000n, 0x3000n)
    queue.setNotification(false)
    expect(view.getUint16(0x3000, true)).toBe(1)
    queue.setNotification(true)
    expect(view.getUint16(0x3000, true)).toBe(0)
  })

  it('breaks when its rings are nowhere, also beyond what an address can be', () => {
    for (const ring of [0x10_0000n, 1n << 60n]) {
      const { queue, failures } = bench()
      queue.setRings(DESC, ring, 0x3000n)
      expect(queue.pop()).toBeUndefined()
      expect(failures.join()).toMatch('cannot be read')
    }
  })
})

describe('segments', () => {
  const segments = [
    { address: 0x100, length: 3 },
    { address: 0x200, length: 5 },
  ]
  it('are read and written across their borders', () => {
    const { dma, memory } = bench()
    expect(segmentBytes(segments)).toBe(8)
    expect(scatter(dma, segments, 1, Uint8Array.of(1, 2, 3, 4))).toBe(true)
    expect([...memory.subarray(0x100, 0x103), ...memory.subarray(0x200, 0x203)]).toEqual([0, 1, 2, 3, 4, 0])
    const back = new Uint8Array(4)
    expect(gather(dma, segments, 2, back)).toBe(true)
    expect([...back]).toEqual([2, 3, 4, 0])
  })
  it('that are too short or not there are said to be', () => {
    const { dma } = bench()
    expect(gather(dma, segments, 5, new Uint8Array(4))).toBe(false)
    expect(scatter(dma, [{ address: 0x10_0000, length: 4 }], 0, new Uint8Array(4))).toBe(false)
  })
})
