import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { MmioRegion } from '../bus/mmio.ts'
import { dma } from './address-space.ts'
import { GuestMemory, GuestMemoryExhaustedError, PAGE_BYTES, type RamBlock } from './guest-memory.ts'
import { PhysicalMap } from './physical-map.ts'

const KiB = 1024
const bits = (words: Int32Array) =>
  [...words.keys()].flatMap((w) =>
    Array.from({ length: 32 }, (_, b) => w * 32 + b).filter((p) => words[w]! & (1 << (p & 31))),
  )

describe('GuestMemory', () => {
  it('blocks are zeroed, page aligned and stay where they are when more is allocated', () => {
    const memory = new GuestMemory()
    const a = memory.addBlock('a', 100)
    a.bytes[99] = 7
    const b = memory.addBlock('b', 3 << 20)
    expect([a.offset % PAGE_BYTES, b.offset % PAGE_BYTES]).toEqual([0, 0])
    expect(b.offset).toBeGreaterThanOrEqual(a.offset + PAGE_BYTES)
    expect(a.bytes[99]).toBe(7)
    expect(new Uint8Array(memory.buffer)[a.offset + 99]).toBe(7)
    expect(memory.blocks.map(({ idstr }) => idstr)).toEqual(['a', 'b'])
  })

  it('more than 4 GiB is refused before anything grows', () => {
    const memory = new GuestMemory()
    const before = memory.buffer.byteLength
    expect(() => memory.addBlock('ram', 4 * KiB ** 3)).toThrow(GuestMemoryExhaustedError)
    expect(memory.buffer.byteLength).toBe(before)
  })

  it('a write from outside of a hart marks its pages, and tells who holds code of them', () => {
    const memory = new GuestMemory()
    const block = memory.addBlock('ram', 16 * PAGE_BYTES)
    const stale: number[] = []
    memory.onCodeWrite((page) => stale.push(page))
    const page = block.offset / PAGE_BYTES + 2
    Atomics.or(memory.codePages, page >>> 5, 1 << (page & 31))
    const into = new Int32Array(1)
    memory.written(block.offset, PAGE_BYTES)
    expect(memory.dirtyLog.take(block, into)).toBe(0) // not logging
    memory.dirtyLog.enabled = true
    memory.written(block.offset + 2 * PAGE_BYTES - 1, 2)
    memory.written(block.offset, 0)
    expect(memory.dirtyLog.take(block, into)).toBe(2)
    expect(bits(into)).toEqual([1, 2])
    expect(memory.dirtyLog.take(block, into)).toBe(0)
    expect(stale).toEqual([page])
  })

  it('count and take see the bits of one block; take moves them, and leaves its neighbours alone', () => {
    const memory = new GuestMemory()
    const blocks = [37, 1, 70].map((pages, i) => memory.addBlock(`b${i}`, pages * PAGE_BYTES))
    memory.dirtyLog.enabled = true
    const page = fc.record({ block: fc.nat(2), page: fc.nat(69) })
    fc.assert(
      fc.property(fc.array(page, { maxLength: 60 }), (writes) => {
        const expected = blocks.map(() => new Set<number>())
        for (const { block, page: p } of writes) {
          const at = p % (blocks[block]!.sizeBytes / PAGE_BYTES)
          expected[block]!.add(at)
          memory.written(blocks[block]!.offset + at * PAGE_BYTES, 1)
        }
        blocks.forEach((block: RamBlock, i) => {
          const into = new Int32Array(3)
          expect(memory.dirtyLog.count(block)).toBe(expected[i]!.size)
          expect(memory.dirtyLog.take(block, into)).toBe(expected[i]!.size)
          expect(bits(into)).toEqual([...expected[i]!].sort((a, b) => a - b))
        })
      }),
    )
  })
})

describe('PhysicalMap', () => {
  function build() {
    const map = new PhysicalMap(new GuestMemory())
    const log: string[] = []
    const region: MmioRegion = {
      read(offset, size) {
        log.push(`r${size}@${offset}`)
        return offset + 1
      },
      write: (offset, size, value) => void log.push(`w${size}@${offset}=${value}`),
    }
    return { map, log, region }
  }

  it('RAM, ROM and registers side by side', () => {
    const { map, log, region } = build()
    map.addRam(0x8000_0000, map.memory.addBlock('ram', PAGE_BYTES))
    map.addRam(0x1000, map.memory.addBlock('rom', PAGE_BYTES), 'rom')
    map.addMmio(0x1000_0000, 0x100, region, 'uart')
    expect(dma.store32(map, 0x8000_0ffc, 0x12345678)).toBe(true)
    expect(dma.load32(map, 0x8000_0ffc)).toBe(0x12345678)
    expect(map.mmioRead(0x8000_0ffc, 4)).toBe(0x12345678n)
    expect(map.mmioRead(0x8000_0ffe, 4)).toBeUndefined()
    expect(map.mmioWrite(0x8000_0000, 8, 0x1122334455667788n)).toBe(true)
    expect(dma.load64(map, 0x8000_0000)).toBe(0x1122334455667788n)
    expect(dma.store8(map, 0x1000, 5)).toBe(true)
    expect(dma.load8(map, 0x1000)).toBe(0)
    expect(dma.load32(map, 0x1000_0004)).toBe(5)
    expect(map.mmioWrite(0x1000_0008, 8, 0x1_0000_0002n)).toBe(true)
    expect(log).toEqual(['r4@4', 'w4@8=2', 'w4@12=1'])
    expect(dma.load8(map, 0x2000_0000)).toBeUndefined()
    expect(map.mmioWrite(0x2000_0000, 4, 0n)).toBe(false)
    expect(map.describe().map(({ name, kind }) => `${name} ${kind}`)).toEqual(['rom rom', 'uart mmio', 'ram ram'])
  })

  it('only the access sizes that a region has', () => {
    const { map, region } = build()
    map.addMmio(0, 16, { ...region, sizes: [4] }, 'only32')
    expect(map.mmioRead(0, 4)).toBe(1n)
    expect(map.mmioRead(0, 1)).toBeUndefined()
    expect(map.mmioRead(0, 8)).toBeUndefined()
    expect(map.mmioWrite(0, 2, 0n)).toBe(false)
  })

  it('overlapping regions are refused, adjacent ones are not', () => {
    const { map, region } = build()
    map.addMmio(0x1000, 0x100, region, 'a')
    map.addMmio(0x1100, 0x100, region, 'b')
    expect(() => map.addMmio(0x10ff, 2, region, 'c')).toThrow('c: 0x10ff to 0x1101 overlaps a')
    expect(() => map.addMmio(0xfff, 2, region, 'c')).toThrow('overlaps a')
  })

  it('a flash switches between array and commands, and CPUs are told', () => {
    const { map, log, region } = build()
    let changes = 0
    map.onRamMappingsChanged(() => changes++)
    const block = map.memory.addBlock('flash', PAGE_BYTES)
    block.bytes[0] = 0xab
    const flash = map.addRam(0x2000_0000, block, 'romd', region)
    expect(dma.load8(map, 0x2000_0000)).toBe(0xab)
    dma.store8(map, 0x2000_0000, 0x90)
    expect(block.bytes[0]).toBe(0xab)
    flash.setMode('io')
    expect(dma.load8(map, 0x2000_0000)).toBe(1)
    expect(log).toEqual(['w1@0=144', 'r1@0'])
    expect(map.ramMappings()).toEqual([])
    flash.setMode('io')
    flash.setMode('romd')
    expect(map.ramMappings()).toMatchObject([{ base: 0x2000_0000, mode: 'romd' }])
    expect(changes).toBe(3)
  })

  it('DMA across regions goes as far as something answers', () => {
    const { map, log, region } = build()
    map.addRam(0, map.memory.addBlock('ram', PAGE_BYTES))
    map.addMmio(PAGE_BYTES, 6, region, 'regs')
    const into = new Uint8Array(10)
    expect(map.read(PAGE_BYTES - 4, into)).toBe(true)
    expect([...into]).toEqual([0, 0, 0, 0, 1, 0, 0, 0, 5, 0])
    expect(log).toEqual(['r4@0', 'r2@4'])
    expect(map.read(PAGE_BYTES - 4, new Uint8Array(11))).toBe(false)
  })
})
