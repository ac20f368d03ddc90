import { Regions } from '../compiler/regions.ts'
import { COUNTER, HartState, WORD } from '../hart/hart-state.ts'
import {
  FETCH_TLB_ENTRIES,
  HART_AREA,
  hartAreaBytes,
  LAYOUT,
  MAX_REGIONS,
  PAGE_SLOT_BYTES,
  SLOT_BYTES,
  TLB_ENTRIES,
} from '../hart/layout.ts'
import { PROFILES } from '../hart/profile.ts'
import { Exit, type Interpreter, type SystemImports } from './contract.ts'
import { fusesMultiplyAdd } from './fused-multiply-add.ts'
import { hasExtension, makeInterpreter } from './interpreter.ts'

const HART_BASE = 0x10_000
const POOL_PAGES = 256
/** Where a test's program and data lie: address = offset in memory. */
export const FLAT_BASE = 0x100_0000
export const FLAT_BYTES = 0x40_0000
const PAGES = (FLAT_BASE + FLAT_BYTES) / 65536

/** A slow path that was taken, for tests to look at. */
export interface SlowCall {
  readonly name: 'load' | 'store' | 'amoAddress' | 'cacheBlock' | 'csr'
  readonly operands: readonly (number | bigint)[]
}

export interface FlatHart {
  readonly memory: WebAssembly.Memory
  readonly view: DataView
  readonly interpreter: Interpreter
  readonly calls: SlowCall[]
  /** Addresses whose access faults, whatever the size. */
  readonly faults: Set<bigint>
  x(register: number): bigint
  setX(register: number, value: bigint): void
  f(register: number): bigint
  setF(register: number, value: bigint): void
  get(offset: number): bigint
  set(offset: number, value: bigint): void
  get32(offset: number): number
  set32(offset: number, value: number): void
  /** 16-bit or 32-bit instructions, by their low bits. @returns the address after the last */
  load(at: number, insns: readonly number[]): number
  /** Runs from pc. */
  run(pc: number, budget?: number): number
  pc(): number
  fillTlb(): void
  counter(name: keyof typeof COUNTER): number
}

export interface FlatOptions {
  readonly overrides?: Partial<SystemImports>
  /** Compiles whatever is to run, before it does. */
  readonly compiles?: boolean
}

/** A hart with a real interpreter, all of memory mapped where it lies, and slow paths that only do what they must. */
export function flatHart({ overrides = {}, compiles = false }: FlatOptions = {}): FlatHart {
  const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true })
  const view = new DataView(memory.buffer)
  if (hartAreaBytes(POOL_PAGES) > FLAT_BASE - HART_BASE) throw new Error('the hart does not fit')
  const at = (offset: number): number => HART_BASE + offset
  const pages = new Map<number, number>()
  const calls: SlowCall[] = []
  const faults = new Set<bigint>()
  const faulted = (address: bigint): boolean => {
    if (!faults.has(address)) return false
    view.setInt32(at(LAYOUT.trapPending32), 1, true)
    return true
  }
  const enter = (pc: number): number => {
    const page = pc & ~0xfff
    let slots = pages.get(page)
    if (slots === undefined) {
      slots = HART_BASE + HART_AREA.pool + pages.size * PAGE_SLOT_BYTES
      pages.set(page, slots)
      interpreter.code.initPage(slots, false)
    }
    view.setBigInt64(at(LAYOUT.pageVaddr), BigInt(page), true)
    view.setUint32(at(LAYOUT.pageSlots32), slots, true)
    view.setUint32(at(LAYOUT.pageMem32), page, true)
    const entry = HART_BASE + HART_AREA.fetchTlb + ((pc >> 8) & ((FETCH_TLB_ENTRIES - 1) << 4))
    view.setBigInt64(entry, BigInt(page), true)
    view.setUint32(entry + 8, slots, true)
    view.setUint32(entry + 12, page, true)
    return slots + ((pc & 0xffe) / 2) * SLOT_BYTES
  }
  const imports: SystemImports = {
    load(address, kind) {
      calls.push({ name: 'load', operands: [address, kind] })
      if (faulted(address)) return 0n
      const from = Number(address)
      return [
        () => BigInt(view.getInt8(from)),
        () => BigInt(view.getUint8(from)),
        () => BigInt(view.getInt16(from, true)),
        () => BigInt(view.getUint16(from, true)),
        () => BigInt(view.getInt32(from, true)),
        () => BigInt(view.getUint32(from, true)),
        () => view.getBigInt64(from, true),
      ][kind]()
    },
    store(address, value, bytes) {
      calls.push({ name: 'store', operands: [address, value, bytes] })
      if (faulted(address)) return
      const bits = BigInt.asUintN(64, value)
      for (let i = 0; i < bytes; i++) view.setUint8(Number(address) + i, Number((bits >> BigInt(i * 8)) & 0xffn))
      const slots = pages.get(Number(address) & ~0xfff)
      if (slots === undefined) return
      regions?.written(slots, Number(address) & 0xfff, bytes)
      interpreter.code.clearSlots(slots, Number(address) & 0xfff, bytes)
    },
    amoAddress(address, bytes, write) {
      calls.push({ name: 'amoAddress', operands: [address, bytes, write] })
      if (Number(address) % bytes !== 0) faults.add(address)
      return faulted(address) ? 0 : Number(address)
    },
    cacheBlock: (op, address) => void calls.push({ name: 'cacheBlock', operands: [op, address] }),
    csr(funct3, number, source, sourceIndex) {
      calls.push({ name: 'csr', operands: [funct3, number, source, sourceIndex] })
      return 0x123n
    },
    fetch(pc) {
      if (pc >= FLAT_BASE && pc < FLAT_BASE + FLAT_BYTES) return enter(Number(pc))
      view.setInt32(at(LAYOUT.trapPending32), 1, true)
      return 0
    },
    straddledHalf: () => view.getUint16(Number(view.getBigInt64(at(LAYOUT.pageVaddr), true)) + 4096, true),
    ...overrides,
  }
  const profile = PROFILES['qemu-10.0']
  const hart = new HartState(memory.buffer as unknown as SharedArrayBuffer, HART_BASE, 0)
  const table = new WebAssembly.Table({ initial: MAX_REGIONS, maximum: MAX_REGIONS, element: 'anyfunc' })
  const compiled = compiles ? { table, threshold: 1 } : undefined
  const interpreter = makeInterpreter({ memory, hartBase: HART_BASE, profile, imports, compiled })
  const knownCode = (address: number) => {
    const slots = pages.get(address)
    return slots === undefined ? undefined : { slots, mem: address }
  }
  const regions = compiled
    ? new Regions({
        memory,
        hart,
        table,
        step: interpreter.exports.step,
        harts: 1,
        threshold: 1,
        batch: 1,
        speculates: true,
        decode: (slot) => interpreter.code.decode(slot),
        has: hasExtension(profile),
        fusesMultiplyAdd: fusesMultiplyAdd(),
        knownCode: (lo) => knownCode(lo >>> 0),
        confirmPage: (address, slots) => pages.get(Number(address)) === slots,
      })
    : undefined
  for (const area of [HART_AREA.readTlb, HART_AREA.writeTlb, HART_AREA.fetchTlb]) {
    for (let i = 0; i < (area === HART_AREA.fetchTlb ? FETCH_TLB_ENTRIES : TLB_ENTRIES); i++) {
      view.setBigInt64(at(area) + i * 16, -1n, true)
    }
  }
  view.setUint32(at(LAYOUT.readTlb32), at(HART_AREA.readTlb), true)
  view.setUint32(at(LAYOUT.writeTlb32), at(HART_AREA.writeTlb), true)
  view.setUint32(at(LAYOUT.fetchTlb32), at(HART_AREA.fetchTlb), true)
  view.setBigInt64(at(LAYOUT.loadRes), -1n, true)
  return {
    memory,
    view,
    interpreter,
    calls,
    faults,
    x: (register) => view.getBigUint64(at(LAYOUT.x + register * 8), true),
    setX: (register, value) => view.setBigUint64(at(LAYOUT.x + register * 8), BigInt.asUintN(64, value), true),
    f: (register) => view.getBigUint64(at(LAYOUT.f + register * 8), true),
    setF: (register, value) => view.setBigUint64(at(LAYOUT.f + register * 8), BigInt.asUintN(64, value), true),
    get: (offset) => view.getBigUint64(at(offset), true),
    set: (offset, value) => view.setBigUint64(at(offset), BigInt.asUintN(64, value), true),
    get32: (offset) => view.getInt32(at(offset), true),
    set32: (offset, value) => view.setInt32(at(offset), value, true),
    load(from, insns) {
      let to = from
      for (const insn of insns) {
        view.setUint16(to, insn & 0xffff, true)
        to += 2
        if ((insn & 3) !== 3) continue
        view.setUint16(to, insn >>> 16, true)
        to += 2
      }
      return to
    },
    run(pc, budget = 1_000_000) {
      view.setBigInt64(at(LAYOUT.pc), BigInt(pc), true)
      const end = hart.get(LAYOUT.instret) + BigInt(budget)
      for (;;) {
        const exit = interpreter.exports.run(Number(end - hart.get(LAYOUT.instret)))
        if (exit === Exit.hot) regions!.hot()
        // Compiled code that has overwritten itself leaves early.
        else if (exit !== Exit.poll || hart.i32[WORD.request] !== 0 || hart.get(LAYOUT.instret) >= end) return exit
      }
    },
    counter: (name) => hart.counter(COUNTER[name]),
    pc: () => Number(view.getBigUint64(at(LAYOUT.pc), true)),
    fillTlb() {
      for (let page = FLAT_BASE; page < FLAT_BASE + FLAT_BYTES; page += 4096) {
        for (const area of [HART_AREA.readTlb, HART_AREA.writeTlb]) {
          const entry = at(area) + ((page >> 8) & 0x3ff0)
          view.setBigInt64(entry, BigInt(page), true)
          view.setUint32(entry + 8, 0, true)
        }
      }
    },
  }
}
