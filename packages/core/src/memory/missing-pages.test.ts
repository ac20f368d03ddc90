import { describe, expect, it } from 'vitest'
import { VirtualClock } from '../clock/virtual-clock.ts'
import { dma } from './address-space.ts'
import { GuestMemory, PAGE_BYTES } from './guest-memory.ts'
import { nowOrWhenPagesArrive, PageMissingError, pageMissingIn, whenPagesArrive } from './missing-pages.ts'
import { PhysicalMap } from './physical-map.ts'

function build(pages = 8) {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const block = memory.addBlock('ram', pages * PAGE_BYTES)
  map.addRam(0x8000_0000, block)
  const asked: number[] = []
  const first = block.offset / PAGE_BYTES
  const { missing } = memory
  missing.begin((page) => asked.push(page - first), 2)
  return { memory, map, block, missing, asked, first }
}

describe('missing pages', () => {
  it('an access that meets one changes nothing, asks for all it needs, once, and can be made again', async () => {
    const { map, missing, asked, first, block } = build()
    missing.add(first + 2, 2)
    expect(dma.load32(map, 0x8000_0000)).toBe(0)
    const across = new Uint8Array(2 * PAGE_BYTES).fill(7)
    const write = () => map.write(0x8000_0000 + PAGE_BYTES + 1, across)
    expect(write).toThrow(PageMissingError)
    expect(write).toThrow(PageMissingError)
    expect(block.bytes.every((byte) => byte === 0)).toBe(true)
    expect(asked).toEqual([2, 3])
    expect(missing.wanted).toEqual([first + 2, first + 3])
    expect(() => map.mmioRead(0x8000_2000, 4)).toThrow(PageMissingError)
    expect(() => map.mmioWrite(0x8000_2000, 4, 1n)).toThrow(PageMissingError)
    expect(() => map.demand(0x8000_0000, 2 * PAGE_BYTES)).not.toThrow()
    expect(() => map.demand(0x8000_0000, 3 * PAGE_BYTES)).toThrow(PageMissingError)
    const done = whenPagesArrive(write)
    missing.arrived(first + 2)
    missing.arrived(first + 2)
    expect(missing.count).toBe(1)
    missing.arrived(first + 3)
    expect(await done).toBe(true)
    expect(missing.count).toBe(0)
    expect(block.bytes[PAGE_BYTES + 1]).toBe(7)
    expect(missing.stats).toMatchObject({ waits: 2, samplesMs: [expect.any(Number), expect.any(Number)] })
  })

  it('is found through what wraps it', () => {
    const { map, missing, first } = build()
    missing.add(first, 1)
    let error: unknown
    try {
      map.read(0x8000_0000, new Uint8Array(1))
    } catch (cause) {
      error = new PageMissingError(0, Promise.resolve())
      Object.assign(error as object, { code: 'FERRY_OTHER', cause })
    }
    expect(pageMissingIn(error)?.page).toBe(first)
    expect(pageMissingIn(new Error('something else'))).toBeUndefined()
    expect(pageMissingIn(undefined)).toBeUndefined()
  })

  it('work is begun anew for every page, and other errors pass', async () => {
    const { map, missing, first } = build()
    missing.add(first, 2)
    let runs = 0
    nowOrWhenPagesArrive(() => {
      runs++
      map.read(0x8000_0000, new Uint8Array(1))
      map.read(0x8000_1000, new Uint8Array(1))
    })
    for (const page of [first, first + 1]) {
      missing.arrived(page)
      await Promise.resolve()
    }
    expect(runs).toBe(3)
    const fail = () => {
      throw new RangeError('no')
    }
    expect(() => nowOrWhenPagesArrive(fail)).toThrow('no')
    await expect(whenPagesArrive(fail)).rejects.toThrow('no')
  })

  it('a timer that stumbles over one fires again when it has come', async () => {
    const { map, missing, first } = build()
    missing.add(first, 1)
    const clock = new VirtualClock()
    let fired = 0
    const done = Promise.withResolvers<void>()
    clock.at({ expireNs: 0n }, () => {
      if (++fired === 1) setTimeout(() => missing.arrived(first), 1)
      map.read(0x8000_0000, new Uint8Array(1))
      done.resolve()
    })
    clock.start()
    await done.promise
    clock.stop()
    expect(fired).toBe(2)
  })

  it('counts how long harts wait, and how long all of them do', async () => {
    const { missing, first } = build()
    missing.add(first, 2)
    const one = missing.hartWaits(0, first)
    void missing.hartWaits(0, first) // woken for another reason, it asks again
    const two = missing.hartWaits(1, first + 1)
    await new Promise((resolve) => setTimeout(resolve, 5))
    missing.arrived(first + 1)
    await two
    missing.arrived(first)
    await one
    const { hartMs, allHartsMs } = missing.stats
    expect(hartMs[0]).toBeGreaterThanOrEqual(hartMs[1]!)
    expect(hartMs[1]).toBeGreaterThan(3)
    expect(allHartsMs).toBeGreaterThan(3)
    expect(allHartsMs).toBeLessThanOrEqual(hartMs[1]!)
  })

  it('given up, nothing is missing any more', () => {
    const { map, missing, first } = build()
    missing.add(first, 8)
    missing.giveUp()
    expect([missing.count, missing.has(first)]).toEqual([0, false])
    expect(dma.load8(map, 0x8000_0000)).toBe(0)
  })
})
