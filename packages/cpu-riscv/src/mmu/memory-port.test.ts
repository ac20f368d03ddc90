import { describe, expect, it } from 'vitest'
import { MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import { RAM_BASE, type TestHart, testHart } from '../hart/hart-testing.ts'
import { HART_AREA, MMU_BANK, TLB_BANK_BYTES } from '../hart/layout.ts'
import { AccessKind } from '../interpreter/contract.ts'
import { CAUSE } from '../trap/causes.ts'
import { Request } from '../worker/requests.ts'
import { markStale } from '../worker/stale-code.ts'

const { u8, i32, u32, i64 } = AccessKind
const V = 1n
const R = 2n
const W = 4n
const X = 8n
const U = 16n
const A = 64n
const D = 128n
const ROOT = RAM_BASE + 0x100000
const pte = (address: number, flags: bigint): bigint => (BigInt(address / 4096) << 10n) | flags

/** csrrw, as the interpreter would call it. */
const csrw = (t: TestHart, number: number, value: bigint): bigint => t.imports.csr(1, number, value, 1, 0)

/** All memory open to S and U, paging on with one root table of 512 empty entries. */
function paged(mode: 8 | 9 | 10 = 8, priv: number = PRIV.S, options: Parameters<typeof testHart>[0] = {}): TestHart {
  const t = testHart(options)
  csrw(t, 0x3b0, (1n << 54n) - 1n)
  csrw(t, 0x3a0, 0x1fn)
  csrw(t, 0x180, (BigInt(mode) << 60n) | BigInt(ROOT / 4096))
  t.trap()
  setPriv(t, priv)
  return t
}
function setPriv(t: TestHart, priv: number, mstatus = 0): void {
  t.hart.i32[WORD.priv] = priv
  t.hart.i32[WORD.mstatus] = mstatus
  t.core.translationChanged()
}
/** Maps a page through fresh tables of `levels` levels below ROOT. */
let nextTable = 0
function mapPage(t: TestHart, va: bigint, address: number, flags: bigint, levels = 3): number {
  let table = ROOT
  for (let level = levels - 1; ; level--) {
    const at = table + Number((va >> BigInt(12 + 9 * level)) & 511n) * 8
    if (level === 0) {
      t.writeWord(at, pte(address, flags))
      return at
    }
    if (!(t.readWord(at) & V)) t.writeWord(at, pte(ROOT + 0x1000 * ++nextTable, V))
    table = Number((t.readWord(at) >> 10n) << 12n)
  }
}
const hasWriteEntry = ({ hart, memory }: TestHart, bank: number, va: bigint): boolean => {
  const at = hart.base + HART_AREA.writeTlb + bank * TLB_BANK_BYTES + Number((va >> 12n) & 1023n) * 16
  return new BigUint64Array(memory.buffer, at, 1)[0] === BigInt.asUintN(64, (va >> 12n) << 12n)
}

describe('loads and stores without translation', () => {
  it('extends by kind', () => {
    const t = testHart()
    t.writeWord(RAM_BASE, 0xfedc_ba98_8765_43f1n)
    const at = BigInt(RAM_BASE)
    expect(t.imports.load(at, u8, 0)).toBe(0xf1n)
    expect(t.imports.load(at, AccessKind.i8, 0)).toBe(-15n)
    expect(t.imports.load(at, i32, 0)).toBe(BigInt.asIntN(32, 0x876543f1n))
    expect(t.imports.load(at, u32, 0)).toBe(0x876543f1n)
    expect(BigInt.asUintN(64, t.imports.load(at, i64, 0))).toBe(0xfedc_ba98_8765_43f1n)
  })

  it('does misaligned accesses', () => {
    const t = testHart()
    t.imports.store(BigInt(RAM_BASE + 4093), 0x1122334455667788n, 8, 0)
    expect(t.readWord(RAM_BASE + 4088) >> 40n).toBe(0x667788n)
    expect(t.readWord(RAM_BASE + 4096) & 0xff_ffff_ffffn).toBe(0x1122334455n)
    expect(t.imports.load(BigInt(RAM_BASE + 4093), i64, 0)).toBe(0x1122334455667788n)
    expect(t.imports.load(BigInt(RAM_BASE + 4095), u32, 0)).toBe(0x33445566n)
    expect(t.trap()).toBeUndefined()
  })

  it('faults where nothing answers', () => {
    const t = testHart()
    t.imports.load(0x1000n, i64, 0)
    expect(t.trap()).toEqual({ cause: CAUSE.loadAccess, value: 0x1000n })
    t.imports.store(0xffff_ffff_0000_0000n, 0n, 1, 0)
    expect(t.trap()).toEqual({ cause: CAUSE.storeAccess, value: 0xffff_ffff_0000_0000n })
    expect(t.imports.fetch(0x1000n)).toBe(0)
    expect(t.trap()).toEqual({ cause: CAUSE.fetchAccess, value: 0x1000n })
  })

  it('passes MMIO through once, with the size and value of the access', () => {
    const t = testHart()
    const seen: unknown[] = []
    t.map.addMmio(
      0x1000_0000,
      16,
      {
        read(offset, bytes) {
          seen.push(['r', offset, bytes])
          return 0x80
        },
        write: (...w) => void seen.push(w),
      },
      'x',
    )
    expect(t.imports.load(0x1000_0005n, AccessKind.i8, 0)).toBe(-128n)
    t.imports.store(0x1000_0004n, -1n, 4, 0)
    expect(seen).toEqual([
      ['r', 5, 1],
      [4, 4, 0xffff_ffff],
    ])
  })

  it('a bank that a device switches to commands is MMIO from the next access on', () => {
    const t = testHart()
    const bank = t.memory.addBlock('bank', 4096)
    const handle = t.map.addRam(0x2000_0000, bank, 'romd', {
      read: () => 0x80,
      write: () => handle.setMode('io'),
    })
    t.map.onRamMappingsChanged(() => {
      t.control.setMappings(t.map.ramMappings())
      Atomics.or(t.hart.i32, WORD.request, Request.mappings)
    })
    t.control.setMappings(t.map.ramMappings())
    Atomics.or(t.hart.i32, WORD.request, Request.mappings)
    t.core.serveRequests()
    expect(t.imports.load(0x2000_0000n, u8, 0)).toBe(0n)
    expect(hasWriteEntry(t, MMU_BANK.M, 0x2000_0000n)).toBe(false)
    t.imports.store(0x2000_0000n, 0x70n, 1, 0)
    expect(t.imports.load(0x2000_0000n, u8, 0)).toBe(0x80n)
  })

  it('wants atomics aligned and in RAM', () => {
    const t = testHart()
    t.map.addMmio(0x1000_0000, 16, { read: () => 0, write() {} }, 'x')
    expect(t.imports.amoAddress(BigInt(RAM_BASE + 8), 8, 1, 0)).toBe(t.ram.offset + 8)
    t.imports.amoAddress(BigInt(RAM_BASE + 4), 8, 1, 0)
    expect(t.trap()?.cause).toBe(CAUSE.storeMisaligned)
    t.imports.amoAddress(BigInt(RAM_BASE + 2), 4, 0, 0)
    expect(t.trap()?.cause).toBe(CAUSE.loadMisaligned)
    t.imports.amoAddress(0x1000_0000n, 4, 1, 0)
    expect(t.trap()?.cause).toBe(CAUSE.storeAccess)
  })
})

// Spec: privileged ISA, "Virtual Address Translation Process".
describe('translation', () => {
  it.each([
    [8, 3, 0x3f_ffff_f000n],
    [9, 4, 0x7fff_ffff_f000n],
    [10, 5, 0xff_ffff_ffff_f000n],
    [8, 3, 0xffff_ffc0_0000_0000n],
    [10, 5, 0xff00_0000_0000_0000n],
  ] as const)('satp mode %i walks %i levels: %s', (mode, levels, va) => {
    const t = paged(mode)
    mapPage(t, va, RAM_BASE + 0x5000, V | R | W | A | D, levels)
    t.writeWord(RAM_BASE + 0x5008, 42n)
    expect(t.imports.load(va + 8n, i64, 0)).toBe(42n)
    expect(t.trap()).toBeUndefined()
  })

  it.each([
    [8, 1n << 38n],
    [9, 1n << 47n],
    [10, 1n << 56n],
    [8, 0xffff_ffbf_ffff_f000n],
  ] as const)('mode %i: an address that is not sign-extended is a page fault: %s', (mode, va) => {
    const t = paged(mode)
    t.imports.load(va, u8, 0)
    expect(t.trap()).toEqual({ cause: CAUSE.loadPage, value: va })
  })

  it('sets A on a load and D on a store, and logs the table as written', () => {
    const t = paged()
    const at = mapPage(t, 0x1000n, RAM_BASE + 0x5000, V | R | W)
    t.memory.dirtyLog.enabled = true
    t.imports.load(0x1000n, u8, 0)
    expect(t.readWord(at) & 0xffn).toBe(V | R | W | A)
    expect(hasWriteEntry(t, MMU_BANK.S, 0x1000n)).toBe(false)
    t.imports.store(0x1000n, 1n, 1, 0)
    expect(t.readWord(at) & 0xffn).toBe(V | R | W | A | D)
    const dirty = new Int32Array(1024 / 32)
    t.memory.dirtyLog.take(t.ram, dirty)
    const pages = [...Array(1024).keys()].filter((i) => dirty[i >> 5] & (1 << (i & 31)))
    expect(pages).toEqual([5, (at - RAM_BASE) >> 12].sort((a, b) => a - b))
  })

  it('Svadu: without menvcfg.ADUE a clear A or D is a page fault', () => {
    const t = paged(8, PRIV.S, { profile: 'qemu-10.0' })
    const at = mapPage(t, 0x1000n, RAM_BASE + 0x5000, V | R | W | A)
    t.hart.setCsr('menvcfg', 0n)
    t.core.translationChanged()
    t.imports.store(0x1000n, 1n, 1, 0)
    expect(t.trap()?.cause).toBe(CAUSE.storePage)
    t.hart.setCsr('menvcfg', 1n << 61n)
    t.core.translationChanged()
    t.imports.store(0x1000n, 1n, 1, 0)
    expect(t.trap()).toBeUndefined()
    expect(t.readWord(at) & D).toBe(D)
  })

  it('checks R, W, X, U, SUM and MXR', () => {
    const t = paged()
    mapPage(t, 0x1000n, RAM_BASE + 0x5000, V | R | A | D)
    mapPage(t, 0x2000n, RAM_BASE + 0x6000, V | X | A | D)
    mapPage(t, 0x3000n, RAM_BASE + 0x7000, V | R | W | X | U | A | D)
    const causeOf = (access: (va: bigint) => unknown) => (va: bigint) => {
      access(va)
      return t.trap()?.cause
    }
    const load = causeOf((va) => t.imports.load(va, u8, 0))
    const store = causeOf((va) => t.imports.store(va, 0n, 1, 0))
    const fetch = causeOf((va) => t.imports.fetch(va))
    expect([load(0x1000n), store(0x1000n), fetch(0x1000n)]).toEqual([undefined, CAUSE.storePage, CAUSE.fetchPage])
    expect([load(0x2000n), store(0x2000n), fetch(0x2000n)]).toEqual([CAUSE.loadPage, CAUSE.storePage, undefined])
    expect([load(0x3000n), fetch(0x3000n)]).toEqual([CAUSE.loadPage, CAUSE.fetchPage])
    setPriv(t, PRIV.S, MSTATUS.SUM)
    expect([load(0x3000n), store(0x3000n), fetch(0x3000n)]).toEqual([undefined, undefined, CAUSE.fetchPage])
    setPriv(t, PRIV.S, MSTATUS.MXR)
    expect(load(0x2000n)).toBeUndefined()
    setPriv(t, PRIV.U)
    expect([load(0x1000n), load(0x3000n), fetch(0x3000n)]).toEqual([CAUSE.loadPage, undefined, undefined])
    setPriv(t, PRIV.M, MSTATUS.MPRV) // MPP = U
    expect([load(0x1000n), load(0x3000n)]).toEqual([CAUSE.loadPage, undefined])
  })

  it('refuses W without R, reserved bits, pointers with A, misaligned superpages', () => {
    const t = paged()
    const cause = (flags: bigint, address = RAM_BASE): number | undefined => {
      t.writeWord(ROOT, pte(address, flags))
      t.core.flushTranslations()
      t.imports.load(0n, u8, 0)
      return t.trap()?.cause
    }
    expect(cause(V | W | A | D)).toBe(CAUSE.loadPage)
    expect(cause(V | R | A | D | (1n << 54n))).toBe(CAUSE.loadPage)
    expect(cause(V | R | A | D | (1n << 63n))).toBe(CAUSE.loadPage)
    expect(cause(V | A)).toBe(CAUSE.loadPage)
    expect(cause(V | R | A | D, RAM_BASE + 0x200000)).toBe(CAUSE.loadPage)
    expect(cause(V | R | A | D)).toBeUndefined()
  })

  it('an sfence for one address drops every part of its superpage', () => {
    const t = paged()
    t.writeWord(ROOT, pte(RAM_BASE, V | R | W | A | D))
    t.imports.store(0x1000n, 1n, 1, 0)
    expect(hasWriteEntry(t, MMU_BANK.S, 0x1000n)).toBe(true)
    t.core.flushAddress(0x3000n)
    expect(hasWriteEntry(t, MMU_BANK.S, 0x1000n)).toBe(false)
  })

  it('a new address space keeps the global translations of S-mode and nothing of U-mode', () => {
    const t = paged()
    const G = 32n
    mapPage(t, 0x1000n, RAM_BASE + 0x5000, V | R | W | A | D | G)
    mapPage(t, 0x2000n, RAM_BASE + 0x6000, V | R | W | A | D | U)
    const switchSpace = () => csrw(t, 0x180, (8n << 60n) | (7n << 44n) | BigInt(ROOT / 4096))
    const fill = () => {
      setPriv(t, PRIV.S)
      t.imports.store(0x1000n, 1n, 1, 0)
      setPriv(t, PRIV.U)
      t.imports.store(0x2000n, 1n, 1, 0)
      setPriv(t, PRIV.S)
    }
    fill()
    switchSpace()
    expect(hasWriteEntry(t, MMU_BANK.S, 0x1000n)).toBe(true)
    expect(hasWriteEntry(t, MMU_BANK.U, 0x2000n)).toBe(false)
    // A page of S-mode that is not global takes the others with it.
    mapPage(t, 0x3000n, RAM_BASE + 0x7000, V | R | W | A | D)
    t.imports.load(0x3000n, u8, 0)
    csrw(t, 0x180, (8n << 60n) | BigInt(ROOT / 4096))
    expect(hasWriteEntry(t, MMU_BANK.S, 0x1000n)).toBe(false)
  })

  it('reports PMP on tables and pages as access faults', () => {
    const t = paged()
    mapPage(t, 0x1000n, RAM_BASE + 0x5000, V | R | W | A | D)
    // Entry 0 now covers the page itself, read-only.
    setPriv(t, PRIV.M)
    csrw(t, 0x3b0, BigInt((RAM_BASE + 0x5000) / 4) | 0x1ffn)
    csrw(t, 0x3b1, (1n << 54n) - 1n)
    csrw(t, 0x3a0, 0x1f19n)
    t.trap()
    setPriv(t, PRIV.S)
    t.imports.load(0x1000n, u8, 0)
    expect(t.trap()).toBeUndefined()
    t.imports.store(0x1000n, 1n, 1, 0)
    expect(t.trap()).toEqual({ cause: CAUSE.storeAccess, value: 0x1000n })
    setPriv(t, PRIV.M)
    csrw(t, 0x3b0, BigInt(ROOT / 4) | 0x1ffn)
    csrw(t, 0x3a0, 0x1f18n)
    t.trap()
    setPriv(t, PRIV.S)
    t.imports.load(0x1000n, u8, 0)
    expect(t.trap()).toEqual({ cause: CAUSE.loadAccess, value: 0x1000n })
  })

  it('a page-crossing store that faults in its second page writes nothing and names that page', () => {
    const t = paged()
    mapPage(t, 0x1000n, RAM_BASE + 0x5000, V | R | W | A | D)
    t.imports.store(0x1ffcn, -1n, 8, 0)
    expect(t.trap()).toEqual({ cause: CAUSE.storePage, value: 0x2000n })
    expect(t.readWord(RAM_BASE + 0x5ff8)).toBe(0n)
  })
})

describe('write TLB', () => {
  it('a load of a writable page fills it too, unless that page must be logged first', () => {
    const t = testHart()
    t.imports.load(BigInt(RAM_BASE), u8, 0)
    expect(hasWriteEntry(t, MMU_BANK.M, BigInt(RAM_BASE))).toBe(true)
    t.memory.dirtyLog.enabled = true
    t.imports.load(BigInt(RAM_BASE + 4096), u8, 0)
    expect(hasWriteEntry(t, MMU_BANK.M, BigInt(RAM_BASE + 4096))).toBe(false)
  })

  it('has no entry for a page with decoded code; stores clear the slots they hit', () => {
    const t = testHart()
    const page = BigInt(RAM_BASE)
    t.imports.store(page, 1n, 8, 0)
    expect(hasWriteEntry(t, MMU_BANK.M, page)).toBe(true)
    const slot = t.imports.fetch(page + 6n)
    expect(slot - t.hart.i32[WORD.pageSlots]).toBe(3 * 16)
    expect(t.hart.i32[WORD.pageMem]).toBe(t.ram.offset)
    expect(hasWriteEntry(t, MMU_BANK.M, page)).toBe(false)
    t.imports.store(page + 8n, 1n, 4, 0)
    t.imports.load(page, u8, 0)
    expect(t.code.cleared).toEqual([{ slots: t.code.prepared[0], offset: 8, bytes: 4 }])
    expect(hasWriteEntry(t, MMU_BANK.M, page)).toBe(false)
  })

  it('a page that is only written becomes data again, later each time', () => {
    const t = testHart()
    const page = BigInt(RAM_BASE)
    const writesUntilData = () => {
      t.imports.fetch(page)
      t.imports.fetch(page + 4096n)
      for (let n = 1; ; n++) {
        t.imports.store(page + 8n, 1n, 4, 0)
        if (hasWriteEntry(t, MMU_BANK.M, page)) return n
      }
    }
    expect([writesUntilData(), writesUntilData(), writesUntilData()]).toEqual([16, 32, 64])
  })

  it('what a device writes over decoded code is decoded anew after the next poll', () => {
    const t = testHart()
    const page = BigInt(RAM_BASE)
    t.imports.fetch(page)
    t.memory.onCodeWrite((index) => markStale(new Int32Array(t.memory.buffer), t.hart, index, true))
    t.map.write(RAM_BASE + 8192, new Uint8Array(4)) // no code there
    expect(t.hart.i32[WORD.request]).toBe(0)
    t.map.write(RAM_BASE + 64, new Uint8Array(4))
    t.core.serveRequests()
    t.imports.fetch(page)
    expect(t.code.prepared.length).toBe(2)
    expect(t.hart.i32[WORD.request]).toBe(0)
  })

  it('recycles decoded pages, flushing what pointed at them', () => {
    const t = testHart()
    for (let i = 0; i < 20; i++) t.imports.fetch(BigInt(RAM_BASE + i * 4096))
    expect(t.code.prepared.length).toBe(20)
    expect(new Set(t.code.prepared).size).toBe(16)
    // The first pages are data again.
    t.imports.store(BigInt(RAM_BASE), 1n, 1, 0)
    expect(hasWriteEntry(t, MMU_BANK.M, BigInt(RAM_BASE))).toBe(true)
  })
})
