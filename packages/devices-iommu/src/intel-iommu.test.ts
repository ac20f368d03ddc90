import { readFileSync } from 'node:fs'
import { bufferReader, bufferWriter, compileVmstate, drive, formatSection, MigrationPriority } from '@ferryvm/core'
import { beforeEach, describe, expect, it } from 'vitest'
import { intelIommu } from './intel-iommu.ts'
import { intelIommuVmstate } from './intel-iommu-vmstate.ts'
import * as R from './registers.ts'
import { IommuBench, RAM, REGISTERS } from './testing.ts'
import { FaultReason } from './translation.ts'

// Where the tests put their tables.
const ROOT = RAM + 0x10_0000
const CONTEXTS = RAM + 0x10_1000
const LEVEL3 = RAM + 0x11_0000
const LEVEL2 = RAM + 0x11_1000
const LEVEL1 = RAM + 0x11_2000
const LEVEL4 = RAM + 0x11_3000
const QUEUE = RAM + 0x12_0000
const STATUS = RAM + 0x13_0000
const MESSAGES = RAM + 0x13_1000
const PAGE = RAM + 0x20_0000
const OTHER_PAGE = RAM + 0x20_1000
/** Function 00:01.0. */
const SID = 0x08
const IOVA = 0x1234_5000
const DOMAIN = 7

const RW = 3n
const { te, srtp, qie, ire, sirtp } = R.COMMAND

/** One function, one 3-level table, one page: IOVA -> PAGE. */
function buildTables(bench: IommuBench, options: { type?: number; width?: number; levels?: 3 | 4 } = {}): void {
  const { type = 0, levels = 3, width = levels - 2 } = options
  bench.poke(ROOT, CONTEXTS | 1)
  bench.poke(CONTEXTS + 16 * SID, BigInt(levels === 4 ? LEVEL4 : LEVEL3) | BigInt(type << 2) | 1n)
  bench.poke(CONTEXTS + 16 * SID + 8, (DOMAIN << 8) | width)
  if (levels === 4) bench.poke(LEVEL4, BigInt(LEVEL3) | RW)
  bench.poke(LEVEL3 + 8 * ((IOVA >>> 30) & 511), BigInt(LEVEL2) | RW)
  bench.poke(LEVEL2 + 8 * ((IOVA >>> 21) & 511), BigInt(LEVEL1) | RW)
  bench.poke(leafAt(IOVA), BigInt(PAGE) | RW)
  bench.poke(PAGE, 0x1111_1111_1111_1111n)
  bench.poke(OTHER_PAGE, 0x2222_2222_2222_2222n)
}
const leafAt = (iova: number): number => LEVEL1 + 8 * ((iova >>> 12) & 511)

function translate(bench: IommuBench): void {
  bench.write64(R.RTADDR, ROOT)
  bench.write32(R.GCMD, srtp)
  bench.write32(R.GCMD, te)
}
function enableQueue(bench: IommuBench): void {
  bench.write64(R.IQA, QUEUE)
  bench.write32(R.GCMD, (bench.read32(R.GSTS) & te) | qie)
}
/** Appends descriptors and rings the doorbell. */
function submit(bench: IommuBench, ...descriptors: [bigint, bigint][]): void {
  let tail = Number(bench.read64(R.IQT)) >> 4
  for (const [low, high] of descriptors) {
    bench.poke(QUEUE + 16 * tail, low)
    bench.poke(QUEUE + 16 * tail + 8, high)
    tail = (tail + 1) % 256
  }
  bench.write64(R.IQT, tail << 4)
}
const wait = (data: number): [bigint, bigint] => [(BigInt(data) << 32n) | 0x25n, BigInt(STATUS)]
const allContexts: [bigint, bigint] = [0x11n, 0n]
const allPages: [bigint, bigint] = [0x12n, 0n]
const onePage = (iova: number, domain = DOMAIN): [bigint, bigint] => [(BigInt(domain) << 16n) | 0x32n, BigInt(iova)]

function dmaRead(bench: IommuBench, iova: number, sourceId = SID): bigint | undefined {
  const bytes = new Uint8Array(8)
  if (!bench.iommu.addressSpace(sourceId).read(iova, bytes)) return undefined
  return new DataView(bytes.buffer).getBigUint64(0, true)
}
const dmaWrite = (bench: IommuBench, iova: number, ...bytes: number[]): boolean =>
  bench.iommu.addressSpace(SID).write(iova, Uint8Array.from(bytes))

/** Reason, source and address of the fault record, and frees it. */
function takeFault(bench: IommuBench) {
  const high = bench.read64(R.FRCD + 8)
  if (!(high & R.FRCD_F)) return undefined
  const address = Number(bench.read64(R.FRCD))
  bench.write64(R.FRCD + 8, R.FRCD_F)
  bench.write32(R.FSTS, 0xff)
  return {
    reason: Number((high >> 32n) & 0xffn),
    source: Number(high & 0xffffn),
    read: (high & (1n << 62n)) !== 0n,
    address,
  }
}

let bench: IommuBench
beforeEach(async () => {
  bench = await IommuBench.create()
})

// Spec: iommu.md sections a.2 and a.3.
describe('registers', () => {
  it.each([
    [{}, 0x00d2008c22260206n, 0xf00f4an],
    [{ 'aw-bits': '48' }, 0x00d2008c222f0606n, 0xf00f4an],
    [{ intremap: 'on', 'caching-mode': 'on', 'device-iotlb': true, 'aw-bits': 48 }, 0x00d2008c222f0686n, 0xf00f4en],
  ])('%j announces what stock announces', async (props, cap, ecap) => {
    const vtd = await IommuBench.create(props)
    expect([vtd.read32(R.VER), vtd.read64(R.CAP), vtd.read64(R.ECAP)]).toEqual([0x10, cap, ecap])
    expect([vtd.read32(R.FECTL), vtd.read32(R.IECTL)]).toEqual([0x8000_0000, 0x8000_0000])
  })

  it('keep what is read-only, hide what is write-only, end at 0x230', () => {
    bench.write64(R.CAP, 0n)
    bench.write64(R.RTADDR, 0xffff_ffff_ffff_ffffn)
    bench.write64(R.IVA, 0xffff_ffff_ffff_ffffn)
    bench.write32(R.GCMD, 0)
    expect(bench.read64(R.CAP)).toBe(0x00d2008c22260206n)
    expect(bench.read64(R.RTADDR)).toBe(0xffff_ffff_ffff_fc00n)
    expect([bench.read64(R.IVA), bench.read32(R.GCMD)]).toEqual([0n, 0])
    expect([bench.read32(0x230), bench.read64(0x22c)]).toEqual([0xffff_ffff, 0xffff_ffff_ffff_ffffn])
    expect(bench.physical.mmioRead(REGISTERS, 2)).toBeUndefined()
    expect(bench.write32(0x800, 1)).toBe(true)
  })

  it('refuse widths and priorities that do not exist', async () => {
    await expect(IommuBench.create({ 'aw-bits': '40' })).rejects.toThrow()
    await expect(IommuBench.create({ 'x-migration-priority': '99' })).rejects.toThrow()
  })

  it('are those of a plain device again after a reset', async () => {
    buildTables(bench)
    translate(bench)
    enableQueue(bench)
    bench.device.reset!()
    expect(Buffer.from(bench.state.csr)).toEqual(Buffer.from((await IommuBench.create()).state.csr))
    expect(dmaRead(bench, PAGE)).toBe(0x1111_1111_1111_1111n)
    expect(bench.bus).toBe('pcie.0')
  })
})

// Spec: iommu.md section a.5.
describe('translation', () => {
  it('is identity until it is enabled', () => {
    buildTables(bench)
    expect(dmaRead(bench, PAGE)).toBe(0x1111_1111_1111_1111n)
    translate(bench)
    expect(bench.read32(R.GSTS) >>> 0).toBe(0xc000_0000)
    expect(dmaRead(bench, IOVA)).toBe(0x1111_1111_1111_1111n)
    expect(dmaRead(bench, PAGE)).toBeUndefined()
    bench.write32(R.GCMD, 0)
    expect(dmaRead(bench, PAGE)).toBe(0x1111_1111_1111_1111n)
  })

  it('uses the root table that SRTP latched', () => {
    buildTables(bench)
    translate(bench)
    bench.write64(R.RTADDR, 0)
    expect(dmaRead(bench, IOVA)).toBe(0x1111_1111_1111_1111n)
  })

  it('walks four levels when the context says 48 bits', async () => {
    const wide = await IommuBench.create({ 'aw-bits': 48 })
    buildTables(wide, { levels: 4 })
    translate(wide)
    expect(dmaRead(wide, IOVA)).toBe(0x1111_1111_1111_1111n)
    expect(dmaRead(wide, 2 ** 47 + IOVA)).toBeUndefined()
    expect(takeFault(wide)).toMatchObject({ reason: FaultReason.readDenied })
    expect(dmaRead(wide, 2 ** 48)).toBeUndefined()
    expect(takeFault(wide)).toMatchObject({ reason: FaultReason.beyondWidth })
  })

  it('maps large pages, and crosses page borders', () => {
    buildTables(bench)
    const iova = 2 ** 30
    bench.poke(LEVEL3 + 8, BigInt(LEVEL2) | RW)
    bench.poke(LEVEL2, BigInt(RAM) | 0x80n | RW) // 2 MiB
    bench.poke(LEVEL2 + 8, BigInt(LEVEL1) | RW)
    bench.poke(LEVEL1, BigInt(OTHER_PAGE) | RW)
    translate(bench)
    const last = RAM + 2 ** 21 - 4
    bench.poke(last, 0xaabb_ccddn)
    expect(dmaRead(bench, iova + 2 ** 21 - 4)).toBe(0x2222_2222_aabb_ccddn)
    bench.poke(LEVEL3 + 16, BigInt(RAM) | 0x80n | RW) // 1 GiB
    expect(dmaRead(bench, 2 ** 31 + OTHER_PAGE - RAM)).toBe(0x2222_2222_2222_2222n)
  })

  it('leaves bits 61:52 and 63 of paging entries to software', () => {
    buildTables(bench)
    bench.poke(leafAt(IOVA), BigInt(PAGE) | RW | (0xbff0n << 48n))
    translate(bench)
    expect(dmaRead(bench, IOVA)).toBe(0x1111_1111_1111_1111n)
  })

  it('passes through when the context entry says so and the option allows it', async () => {
    buildTables(bench, { type: 2, width: 5 })
    translate(bench)
    expect(dmaRead(bench, PAGE)).toBe(0x1111_1111_1111_1111n)
    const strict = await IommuBench.create({ pt: 'off' })
    buildTables(strict, { type: 2 })
    translate(strict)
    expect(dmaRead(strict, PAGE)).toBeUndefined()
    expect(takeFault(strict)).toMatchObject({ reason: FaultReason.contextInvalid })
  })

  it('gives every function its own view', () => {
    buildTables(bench)
    translate(bench)
    expect(dmaRead(bench, IOVA, 0x10)).toBeUndefined()
    expect(takeFault(bench)).toEqual({ reason: FaultReason.contextNotPresent, source: 0x10, read: true, address: IOVA })
    expect(dmaRead(bench, IOVA, SID)).toBe(0x1111_1111_1111_1111n)
  })

  it('writes where the tables say, and only where they allow it', () => {
    buildTables(bench)
    bench.poke(leafAt(IOVA + 0x1000), BigInt(OTHER_PAGE) | 1n)
    translate(bench)
    expect(dmaWrite(bench, IOVA + 1, 0xab)).toBe(true)
    expect(bench.peek(PAGE)).toBe(0x1111_1111_1111_ab11n)
    expect(dmaWrite(bench, IOVA + 0xfff, 1, 2)).toBe(false)
    expect(takeFault(bench)).toEqual({
      reason: FaultReason.writeDenied,
      source: SID,
      read: false,
      address: IOVA + 0x1000,
    })
  })

  it('serves more pages than the IOTLB holds', () => {
    buildTables(bench)
    for (let i = 0; i < 512; i++) bench.poke(LEVEL1 + 8 * i, BigInt(RAM + 4096 * i) | RW)
    for (let i = 0; i < 4; i++) bench.poke(LEVEL2 + 8 * i, BigInt(LEVEL1) | RW)
    bench.poke(LEVEL3, BigInt(LEVEL2) | RW)
    translate(bench)
    for (let page = 0; page < 4 * 512; page++)
      expect(dmaRead(bench, 4096 * page)).toBe(bench.peek(RAM + 4096 * (page % 512)))
    expect(bench.device.describe!()).toContain('iotlb=1024')
  })
})

// Spec: iommu.md section a.6.
describe('faults', () => {
  const big = 2n ** 50n
  const cases: [name: string, reason: number, spoil: (b: IommuBench) => void][] = [
    ['root entry not present', FaultReason.rootNotPresent, (b) => b.poke(ROOT, 0)],
    ['context entry not present', FaultReason.contextNotPresent, (b) => b.poke(CONTEXTS + 16 * SID, 0)],
    ['unknown translation type', FaultReason.contextInvalid, (b) => b.poke(CONTEXTS + 16 * SID, LEVEL3 | 0xd)],
    [
      'device-IOTLB type without the option',
      FaultReason.contextInvalid,
      (b) => b.poke(CONTEXTS + 16 * SID, LEVEL3 | 5),
    ],
    ['width not announced', FaultReason.contextInvalid, (b) => b.poke(CONTEXTS + 16 * SID + 8, (DOMAIN << 8) | 2)],
    ['no right in an upper level', FaultReason.readDenied, (b) => b.poke(LEVEL3, BigInt(LEVEL2) | 2n)],
    ['leaf not present', FaultReason.readDenied, (b) => b.poke(leafAt(IOVA), 0)],
    ['table that cannot be read', FaultReason.pagingUnreadable, (b) => b.poke(LEVEL3, 0x1000_0000n | RW)],
    [
      'root table that cannot be read',
      FaultReason.rootUnreadable,
      (b) => {
        b.write64(R.RTADDR, 0x1000_0000)
        b.write32(R.GCMD, te | srtp)
      },
    ],
    ['context table that cannot be read', FaultReason.contextUnreadable, (b) => b.poke(ROOT, 0x1000_0001)],
    ['reserved bit in the root entry', FaultReason.rootReserved, (b) => b.poke(ROOT, CONTEXTS | 3)],
    ['root entry, upper half', FaultReason.rootReserved, (b) => b.poke(ROOT + 8, 1)],
    [
      'reserved bit in the context entry',
      FaultReason.contextReserved,
      (b) => b.poke(CONTEXTS + 16 * SID, LEVEL3 | 0x11),
    ],
    ['context entry, upper half', FaultReason.contextReserved, (b) => b.poke(CONTEXTS + 16 * SID + 8, 0x81)],
    ['address bits beyond the width', FaultReason.pagingReserved, (b) => b.poke(leafAt(IOVA), BigInt(PAGE) | RW | big)],
    [
      'snoop bit without snoop control',
      FaultReason.pagingReserved,
      (b) => b.poke(leafAt(IOVA), BigInt(PAGE) | RW | 0x800n),
    ],
    [
      'misaligned large page',
      FaultReason.pagingReserved,
      (b) => b.poke(LEVEL2 + 8 * ((IOVA >>> 21) & 511), BigInt(LEVEL1) | RW | 0x80n),
    ],
    ['target in the interrupt window', FaultReason.interruptWindow, (b) => b.poke(leafAt(IOVA), 0xfee0_0000n | RW)],
  ]
  it.each(cases)('%s: reason %i', (_name, reason, spoil) => {
    buildTables(bench)
    translate(bench)
    spoil(bench)
    expect(dmaRead(bench, IOVA)).toBeUndefined()
    expect(bench.read32(R.FSTS)).toBe(2)
    expect(takeFault(bench)).toEqual({ reason, source: SID, read: true, address: IOVA })
    expect(bench.read32(R.FSTS)).toBe(0)
  })

  it('are not reported when the context entry disables it, unless there is no such entry', () => {
    buildTables(bench)
    bench.poke(CONTEXTS + 16 * SID, LEVEL3 | 3)
    translate(bench)
    bench.poke(leafAt(IOVA), 0)
    expect(dmaRead(bench, IOVA)).toBeUndefined()
    expect(takeFault(bench)).toBeUndefined()
    bench.poke(ROOT, 0)
    submitByRegister(bench)
    expect(dmaRead(bench, IOVA)).toBeUndefined()
    expect(takeFault(bench)).toMatchObject({ reason: FaultReason.rootNotPresent })
  })

  it('of one source are recorded once; another source overflows the one record', () => {
    buildTables(bench)
    translate(bench)
    dmaRead(bench, 0)
    dmaRead(bench, 0x5000)
    expect(bench.read32(R.FSTS)).toBe(2)
    dmaRead(bench, 0, 0x20)
    expect(bench.read32(R.FSTS)).toBe(3)
    expect(takeFault(bench)).toMatchObject({ source: SID, address: 0 })
    expect(bench.read32(R.FSTS)).toBe(0)
  })

  it('send a message, once, or as soon as it is unmasked', () => {
    buildTables(bench)
    translate(bench)
    bench.poke(MESSAGES, 0)
    bench.write32(R.FEADDR, MESSAGES)
    bench.write32(R.FEDATA, 0x41)
    dmaRead(bench, 0)
    expect([bench.peek(MESSAGES), bench.read32(R.FECTL)]).toEqual([0n, 0xc000_0000])
    bench.write32(R.FECTL, 0)
    expect([bench.peek(MESSAGES), bench.read32(R.FECTL)]).toEqual([0x41n, 0])
    bench.poke(MESSAGES, 0)
    dmaRead(bench, 0x1000, 0x20)
    expect(bench.peek(MESSAGES)).toBe(0n)
    takeFault(bench)
    dmaRead(bench, 0)
    expect(bench.peek(MESSAGES)).toBe(0x41n)
  })

  it('forget a masked message when the guest has dealt with the cause', () => {
    buildTables(bench)
    translate(bench)
    dmaRead(bench, 0)
    takeFault(bench)
    expect(bench.read32(R.FECTL)).toBe(0x8000_0000)
  })

  it('whose message goes to the registers themselves do not recurse', () => {
    buildTables(bench)
    translate(bench)
    bench.write32(R.FEADDR, REGISTERS + R.FECTL)
    bench.write32(R.FECTL, 0)
    dmaRead(bench, 0)
    expect(bench.read32(R.FSTS)).toBe(2)
  })
})

/** Global context and IOTLB invalidation through the registers. */
function submitByRegister(b: IommuBench): void {
  b.write64(R.CCMD, (1n << 63n) | (1n << 61n))
  b.write64(R.IOTLB, (1n << 63n) | (1n << 60n))
}

// Spec: iommu.md sections a.4 and a.7.
describe('invalidation', () => {
  beforeEach(() => {
    buildTables(bench)
    translate(bench)
    expect(dmaRead(bench, IOVA)).toBe(0x1111_1111_1111_1111n)
    bench.poke(leafAt(IOVA), BigInt(OTHER_PAGE) | RW)
    expect(dmaRead(bench, IOVA), 'stale until invalidated').toBe(0x1111_1111_1111_1111n)
  })
  const fresh = () => dmaRead(bench, IOVA) === 0x2222_2222_2222_2222n

  it.each([
    ['everything', 1n << 60n, 0n, 1n, true],
    ['the domain', (2n << 60n) | (7n << 32n), 0n, 2n, true],
    ['another domain', (2n << 60n) | (8n << 32n), 0n, 2n, false],
    ['the page', (3n << 60n) | (7n << 32n), BigInt(IOVA), 3n, true],
    ['another page', (3n << 60n) | (7n << 32n), BigInt(IOVA + 0x1000), 3n, false],
    ['pages around it', (3n << 60n) | (7n << 32n), BigInt(IOVA + 0x4000) | 4n, 3n, true],
  ])('by register, %s', (_name, command, iva, done, gone) => {
    bench.write64(R.IVA, iva)
    bench.write64(R.IOTLB, command | (1n << 63n))
    expect(bench.read64(R.IOTLB) >> 57n).toBe(((command >> 60n) << 3n) | done)
    expect(fresh()).toBe(gone)
  })

  it.each([
    ['everything', allPages, true],
    ['the domain', [(7n << 16n) | 0x22n, 0n], true],
    ['another domain', [(8n << 16n) | 0x22n, 0n], false],
    ['the page', onePage(IOVA), true],
    ['another page', onePage(IOVA - 0x1000), false],
    ['the page in another domain', onePage(IOVA, 8), false],
  ] as [string, [bigint, bigint], boolean][])('by queue, %s, and says when it is done', (_name, descriptor, gone) => {
    enableQueue(bench)
    bench.poke(STATUS, 0)
    submit(bench, descriptor, wait(0xd0e))
    expect(bench.peek(STATUS)).toBe(0xd0en)
    expect([bench.read64(R.IQH), bench.read32(R.FSTS)]).toEqual([0x20n, 0])
    expect(fresh()).toBe(gone)
  })

  it('of contexts is separate, and by device with a function mask', () => {
    enableQueue(bench)
    bench.poke(CONTEXTS + 16 * SID, 0)
    expect(dmaRead(bench, IOVA), 'the context entry is cached too').toBeDefined()
    submit(bench, [(0x10n << 32n) | 0x31n, 0n])
    expect(dmaRead(bench, IOVA)).toBeDefined()
    submit(bench, [(0xbn << 32n) | (3n << 48n) | 0x31n, 0n])
    expect(dmaRead(bench, IOVA)).toBeUndefined()
  })

  it('by register is ignored while the queue is on', () => {
    enableQueue(bench)
    submitByRegister(bench)
    expect(bench.read64(R.IOTLB) >> 63n).toBe(1n)
    expect(fresh()).toBe(false)
  })

  it.each([
    ['unknown type', [0xfn, 0n]],
    ['reserved bits', [0x12n | 0x100n, 0n]],
    ['no granularity', [0x02n, 0n]],
    ['address mask beyond 18', [0x32n, 19n]],
    ['a wait for nothing', [5n, 0n]],
    ['a status address without memory', [0x25n, 0x1000n]],
  ] as [string, [bigint, bigint]][])(
    '%s stops the queue until the error is cleared and the tail written',
    (_name, bad) => {
      enableQueue(bench)
      submit(bench, allContexts, bad, allPages)
      expect([bench.read64(R.IQH), bench.read32(R.FSTS)]).toEqual([0x10n, 0x10])
      expect(fresh()).toBe(false)
      bench.poke(QUEUE + 16, allContexts[0])
      bench.poke(QUEUE + 24, 0)
      bench.write32(R.FSTS, 0x10)
      expect(bench.read64(R.IQH)).toBe(0x10n)
      bench.write64(R.IQT, 3 << 4)
      expect(bench.read64(R.IQH)).toBe(0x30n)
      expect(fresh()).toBe(true)
    },
  )

  it('a tail outside the queue is an error', () => {
    enableQueue(bench)
    bench.write64(R.IQT, 256 << 4)
    expect(bench.read32(R.FSTS)).toBe(0x10)
  })

  it('can raise a completion event', () => {
    enableQueue(bench)
    bench.poke(MESSAGES, 0)
    bench.write32(R.IEADDR, MESSAGES)
    bench.write32(R.IEDATA, 0x52)
    submit(bench, [0x15n, 0n])
    expect([bench.read32(R.ICS), bench.read32(R.IECTL), bench.peek(MESSAGES)]).toEqual([1, 0xc000_0000, 0n])
    bench.write32(R.IECTL, 0)
    expect([bench.read32(R.IECTL), bench.peek(MESSAGES)]).toEqual([0, 0x52n])
    bench.write32(R.ICS, 1)
    expect(bench.read32(R.ICS)).toBe(0)
  })

  it('ends although the descriptors write the tail themselves', () => {
    enableQueue(bench)
    for (let i = 0; i < 256; i++) {
      const tail = BigInt(((i + 128) % 256) << 4)
      bench.poke(QUEUE + 16 * i, (tail << 32n) | 0x25n)
      bench.poke(QUEUE + 16 * i + 8, REGISTERS + R.IQT)
    }
    bench.write64(R.IQT, 128 << 4)
    expect(bench.read32(R.FSTS)).toBe(0)
  })

  it('the queue turns off only when it is empty and a wait came last', () => {
    enableQueue(bench)
    submit(bench, allPages)
    bench.write32(R.GCMD, te)
    expect(bench.read32(R.GSTS) & qie).toBe(qie)
    submit(bench, wait(1))
    bench.write32(R.GCMD, te)
    expect([bench.read32(R.GSTS) & qie, bench.read64(R.IQH)]).toEqual([0, 0n])
  })

  it('the queue address reads as latched', () => {
    enableQueue(bench)
    bench.write64(R.IQA, 0x1000 | 2)
    expect(bench.read64(R.IQA)).toBe(BigInt(QUEUE + 2))
  })
})

// Spec: iommu.md section a.8. Messages have no receiver here.
describe('interrupt messages', () => {
  it('are not translated as DMA', () => {
    buildTables(bench)
    translate(bench)
    expect(dmaRead(bench, 0xfee0_0000)).toBeUndefined()
    expect(dmaWrite(bench, 0xfee0_0000, 1, 2, 3, 4)).toBe(false)
    expect(bench.read32(R.FSTS)).toBe(0)
  })

  it('latch their table', () => {
    bench.write64(R.IRTA, BigInt(RAM) | 0x805n)
    bench.write32(R.GCMD, sirtp)
    bench.write32(R.GCMD, ire)
    expect(bench.state).toMatchObject({ intr_root: RAM, intr_size: 64, intr_eime: true, intr_enabled: true })
    expect(bench.read32(R.GSTS)).toBe(0x0300_0000)
    expect(dmaWrite(bench, 0xfee0_0010, 1, 2, 3, 4)).toBe(true)
    expect(dmaRead(bench, PAGE)).toBe(bench.peek(PAGE))
  })
})

// Spec: iommu.md section a.9.
describe('migration', () => {
  const codec = compileVmstate(intelIommuVmstate)
  const save = (b: IommuBench): Uint8Array => {
    const out = bufferWriter()
    b.sections[0]!.device!.codec.save(b.state, out)
    return out.bytes()
  }
  const load = async (b: IommuBench, bytes: Uint8Array) => {
    const input = bufferReader(Uint8Array.from([...bytes, 0x7e]))
    await drive(input, b.sections[0]!.device!.codec.load(b.state, input, 1))
  }

  it('comes before what is behind it, unless a test lowers it', async () => {
    expect(bench.sections[0]).toMatchObject({
      idstr: 'iommu-intel',
      instanceId: 0,
      version: 1,
      priority: MigrationPriority.IOMMU,
    })
    const late = await IommuBench.create({ 'x-migration-priority': '0' })
    expect(late.sections[0]!.priority).toBe(MigrationPriority.DEFAULT)
  })

  it('goes on in the middle of a configuration, with empty caches', async () => {
    buildTables(bench)
    translate(bench)
    enableQueue(bench)
    submit(bench, allPages, wait(1))
    dmaRead(bench, 0) // a fault stays to be read
    expect(dmaRead(bench, IOVA)).toBe(0x1111_1111_1111_1111n)
    bench.poke(leafAt(IOVA), BigInt(OTHER_PAGE) | RW)
    bench.write64(R.RTADDR, 0x5000) // written, and not latched yet

    const target = await IommuBench.create({}, bench)
    expect(dmaRead(target, PAGE), 'identity before the load').toBe(0x1111_1111_1111_1111n)
    await load(target, save(bench))
    expect(save(target)).toEqual(save(bench))
    expect(dmaRead(target, IOVA)).toBe(0x2222_2222_2222_2222n)
    expect(target.read64(R.RTADDR)).toBe(0x5000n)
    expect(takeFault(target)).toMatchObject({ source: SID, address: 0 })
    submit(target, allPages, wait(2))
    expect([target.peek(STATUS) & 0xffff_ffffn, target.read64(R.IQH)]).toEqual([2n, 0x40n])
  })

  it('refuses a record that does not exist', async () => {
    const bytes = save(bench)
    bytes[35] = 1
    await expect(load(bench, bytes)).rejects.toThrow(/one fault recording register/)
  })

  const { sections } = JSON.parse(readFileSync(new URL('./__fixtures__/stock-sections.json', import.meta.url), 'utf8'))
  it.each(sections as { stream: string; body: string; version: number; description: any }[])(
    'loads, saves and describes the section of $stream as its sender did',
    async ({ stream, body, version, description }) => {
      const state = intelIommuVmstate.createState()
      const input = bufferReader(Uint8Array.from([...Buffer.from(body, 'hex'), 0x7e]))
      await drive(input, codec.load(state, input, version))
      const out = bufferWriter()
      codec.save(state, out)
      expect(Buffer.from(out.bytes()).toString('hex')).toBe(body)
      const style = stream.includes('-72-') ? '7.2' : '10.0'
      const ours = formatSection({ name: 'iommu-intel', instanceId: 0, vmstate: codec.describe(state, { style }) })
      expect(JSON.parse(ours)).toEqual(description)
    },
  )

  it('of a device that was never touched is what stock sends', async () => {
    expect(Buffer.from(save(bench)).toString('hex')).toBe(sections.find((s: any) => s.stream === 'x86-72-q35-vtd').body)
    const ir = await IommuBench.create({ 'caching-mode': 'on', 'device-iotlb': 'on', 'aw-bits': '48' })
    expect(Buffer.from(save(ir)).toString('hex')).toBe(
      sections.find((s: any) => s.stream === 'x86-100-q35-vtd-ir').body,
    )
  })
})

it('is called intel-iommu', () => expect(intelIommu.type).toBe('intel-iommu'))
