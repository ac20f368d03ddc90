import { describe, expect, it } from 'vitest'
import { HartState } from '../hart/hart-state.ts'
import { hartAreaBytes } from '../hart/layout.ts'
import { PMP, PMP_MIXED, Pmp } from './pmp.ts'

const make = (): Pmp => {
  const pmp = new Pmp(new HartState(new SharedArrayBuffer(hartAreaBytes(0)), 0, 0), 16)
  pmp.update()
  return pmp
}
const TOR = 1 << 3
const NA4 = 2 << 3
const NAPOT = 3 << 3
const { R, W, X, L } = PMP
const config = (...bytes: number[]): bigint => bytes.reduceRight((all, byte) => (all << 8n) | BigInt(byte), 0n)

// Spec: privileged ISA, "Physical Memory Protection".
describe('Pmp', () => {
  it('lets M-mode do everything and others nothing while no entry matches', () => {
    const pmp = make()
    expect(pmp.page(0x80000, true)).toBe(R | W | X)
    expect(pmp.page(0x80000, false)).toBe(0)
  })

  it('matches NAPOT ranges, all ones being everything', () => {
    const pmp = make()
    pmp.writeAddress(0, (0x8000_0000n >> 2n) | 0x7fffn) // 256 KiB
    pmp.writeAddress(1, (1n << 64n) - 1n)
    pmp.writeConfig(0, config(NAPOT, NAPOT | R | W | X))
    expect(pmp.page(0x80000, false)).toBe(0)
    expect(pmp.page(0x8003f, false)).toBe(0)
    expect(pmp.page(0x80040, false)).toBe(R | W | X)
    expect(pmp.page(0, false)).toBe(R | W | X)
    expect(pmp.page(2 ** 44 - 1, false)).toBe(R | W | X)
    expect(pmp.page(0x80000, true)).toBe(R | W | X)
  })

  it('takes the lower bound of TOR from the entry before, also when that one is off', () => {
    const pmp = make()
    pmp.writeAddress(3, 0x1000n >> 2n)
    pmp.writeAddress(4, 0x3000n >> 2n)
    pmp.writeConfig(0, config(0, 0, 0, 0, TOR | R))
    expect([0, 1, 2, 3].map((ppn) => pmp.page(ppn, false))).toEqual([0, R, R, 0])
  })

  it('gives the lower-numbered entry priority', () => {
    const pmp = make()
    pmp.writeAddress(0, 0x2000n >> 2n)
    pmp.writeAddress(1, 0x4000n >> 2n)
    pmp.writeConfig(0, config(TOR | R, TOR | R | W))
    expect(pmp.page(1, false)).toBe(R)
  })

  it('says that a page is mixed, and refuses an access over two entries', () => {
    const pmp = make()
    pmp.writeAddress(0, 0x1004n >> 2n)
    pmp.writeAddress(1, (1n << 54n) - 1n)
    pmp.writeConfig(0, config(NA4 | R, NAPOT | R | W))
    expect(pmp.page(1, false)).toBe(PMP_MIXED)
    expect(pmp.access(0x1004, 4, false)).toBe(R)
    expect(pmp.access(0x1008, 4, false)).toBe(R | W)
    expect(pmp.access(0x1000, 8, false)).toBe(0)
  })

  it('binds M-mode by locked entries, and keeps them', () => {
    const pmp = make()
    pmp.writeAddress(0, 0x2000n >> 2n)
    pmp.writeAddress(1, 0x3000n >> 2n)
    pmp.writeConfig(0, config(0, TOR | R | L))
    expect(pmp.page(2, true)).toBe(R)
    pmp.writeConfig(0, config(0, TOR | R | W | X))
    pmp.writeAddress(1, 0n)
    pmp.writeAddress(0, 0n) // the lower bound of a locked TOR is locked too
    expect(pmp.page(2, true)).toBe(R)
    expect(pmp.readAddress(0)).toBe(0x2000n >> 2n)
  })
})
