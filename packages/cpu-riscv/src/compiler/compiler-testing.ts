import { GuestMemory, PhysicalMap } from '@ferryvm/core'
import { expect } from 'vitest'
import { CONTROL_BYTES, ControlBlock } from '../hart/control.ts'
import { GuestViews } from '../hart/guest-views.ts'
import { COUNTER, HartState, PRIV, WORD } from '../hart/hart-state.ts'
import { directMmio } from '../hart/hart-testing.ts'
import { hartAreaBytes, LAYOUT } from '../hart/layout.ts'
import { PROFILES } from '../hart/profile.ts'
import { resetHart } from '../hart/reset.ts'
import { makeInterpreter } from '../interpreter/interpreter.ts'
import { encode } from '../isa/encode-testing.ts'
import { HartCore } from '../worker/hart-core.ts'
import { Request } from '../worker/requests.ts'

export const RAM_BASE = 0x8000_0000
export const RAM_BYTES = 8 << 20
export const DATA = RAM_BASE + 0x10_0000
export const CODE = RAM_BASE + 0x1000
const FINISHER = 0x10_0000
/** Stores here call {@link CompilingHart.onRing}. */
export const BELL = 0x20_0000
/** x30 = the finisher, x31 = data. */
const FINISHER_REGISTER = 30
export const DATA_REGISTER = 31
export const COUNTER_REGISTER = 29
/** A store to the finisher, then sleep. */
export const END = [encode('sw', { rs1: FINISHER_REGISTER, rs2: 0, imm: 0 }), encode('wfi')]
const THRESHOLDS = [1, 2, 9]
/** Page tables: of the first address space, a second one, and what they need below. */
export const ROOT = RAM_BASE + 0x40_0000
export const OTHER_ROOT = ROOT + 0x1000
const TABLES = ROOT + 0x2000
export const PTE = { V: 1, R: 2, W: 4, X: 8, U: 16, G: 32, A: 64, D: 128 } as const
export const pte = (address: number, flags: number): bigint => (BigInt(address / 4096) << 10n) | BigInt(flags)
/** @param asid of the address space */
export const satp = (root: number, asid = 0): bigint => (8n << 60n) | (BigInt(asid) << 44n) | BigInt(root / 4096)
const ALL = PTE.V | PTE.R | PTE.W | PTE.X | PTE.A | PTE.D

/** What is around the hart; a test may replace it. */
export interface Outside {
  /** The guest has stored to {@link BELL}. */
  onRing(value: number): void
  /** On the hart's clock. */
  now(): number
}

/** A whole hart in the test's own thread, with its compiler or without. */
export interface CompilingHart {
  readonly hart: HartState
  readonly core: HartCore
  readonly ram: Uint8Array<SharedArrayBuffer>
  readonly memory: GuestMemory
  /** Puts instructions in place. @returns the address after them */
  load(at: number, insns: readonly number[]): number
  /** Runs from pc until the guest stores to the finisher. @throws Error it takes more than so many polls */
  run(pc: number, polls?: number): void
  readonly outside: Outside
  /** A page of Sv39 in the tables that {@link supervised} switches on. @param root another address space's, if not the first */
  map(va: number, address: number, flags: number, root?: number): void
  /** Where the entry of a page is, in RAM. */
  entryAt(va: number, root?: number): number
  counter(name: keyof typeof COUNTER): number
  /** Everything that a guest, or a stream, can see of the hart. */
  registers(): readonly bigint[]
}

/**
 * @param threshold jumps that make code hot; undefined: everything is interpreted
 * @param harts of the machine, of which this is one
 */
export function compilingHart(threshold: number | undefined, poolPages = 256, harts = 1): CompilingHart {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const block = memory.addBlock('ram', RAM_BYTES)
  map.addRam(RAM_BASE, block)
  const outside: Outside = { onRing: () => {}, now: () => 0 }
  let finished = false
  map.addMmio(FINISHER, 4096, { read: () => 0, write: () => void (finished = true) }, 'finisher')
  map.addMmio(BELL, 4096, { read: () => 0, write: (_, __, value) => outside.onRing(value) }, 'bell')
  const control = new ControlBlock(memory.buffer, memory.allocate(CONTROL_BYTES))
  const hart = new HartState(memory.buffer, memory.allocate(hartAreaBytes(poolPages)), 0)
  const profile = PROFILES['qemu-10.0']
  resetHart(hart, profile)
  hart.set(LAYOUT.mtimecmp, (1n << 64n) - 1n)
  control.setMappings(map.ramMappings())
  const core = new HartCore(
    {
      hart,
      views: new GuestViews(memory.memory, memory.dirtyLog.offsets),
      control,
      profile,
      mmio: directMmio(map),
      poolPages,
      virtualNs: () => outside.now(),
      compile: threshold === undefined ? undefined : { memory: memory.memory, harts, threshold },
    },
    (imports, compiled) => makeInterpreter({ memory: memory.memory, hartBase: hart.base, profile, imports, compiled }),
  )
  const ram = block.bytes as Uint8Array<SharedArrayBuffer>
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length)
  let tables = 0
  const entryAt = (va: number, root: number): number => {
    let table = root
    for (const shift of [30, 21]) {
      const at = table - RAM_BASE + (Math.floor(va / 2 ** shift) % 512) * 8
      if (view.getBigUint64(at, true) === 0n) view.setBigUint64(at, pte(TABLES + 4096 * ++tables, PTE.V), true)
      table = Number(view.getBigUint64(at, true) >> 10n) * 4096
    }
    return table + (Math.floor(va / 4096) % 512) * 8
  }
  return {
    outside,
    entryAt: (va, root = ROOT) => entryAt(va, root),
    map: (va, address, flags, root = ROOT) =>
      view.setBigUint64(entryAt(va, root) - RAM_BASE, pte(address, flags), true),
    hart,
    core,
    ram,
    memory,
    load(at, insns) {
      let to = at - RAM_BASE
      for (const insn of insns) {
        view.setUint16(to, insn & 0xffff, true)
        to += 2
        if ((insn & 3) !== 3) continue
        view.setUint16(to, insn >>> 16, true)
        to += 2
      }
      return to + RAM_BASE
    },
    run(pc, polls = 100_000) {
      hart.pc = BigInt(pc)
      finished = false
      for (let i = 0; !finished; i++) {
        if (i > polls) throw new Error(`not finished after ${polls} polls; pc ${hart.pc.toString(16)}`)
        core.step()
      }
    },
    counter: (name) => hart.counter(COUNTER[name]),
    registers: () => {
      const words = (from: number, count: number): bigint[] =>
        Array.from({ length: count }, (_, i) => hart.get(from + i * 8))
      return [...words(LAYOUT.x, 32), ...words(LAYOUT.f, (LAYOUT.pmpaddr - LAYOUT.f) / 8)]
    },
  }
}

export function prepared(threshold: number | undefined, poolPages?: number, harts?: number): CompilingHart {
  const hart = compilingHart(threshold, poolPages, harts)
  hart.hart.setX(FINISHER_REGISTER, BigInt(FINISHER))
  hart.hart.setX(DATA_REGISTER, BigInt(DATA))
  // mstatus.FS is dirty, so that floating point runs.
  hart.hart.setCsr('mstatus', hart.hart.csr('mstatus') | 0x6000n)
  hart.core.translationChanged()
  return hart
}

/** S-mode with paging: RAM, the finisher and the bell where they are, and what a test has mapped. */
export function supervised(h: CompilingHart, roots: readonly number[] = [ROOT]): void {
  for (const root of roots) {
    for (let at = 0; at < RAM_BYTES; at += 4096) h.map(RAM_BASE + at, RAM_BASE + at, ALL, root)
    for (const device of [FINISHER, BELL]) h.map(device, device, ALL, root)
  }
  h.hart.setCsr('satp', satp(roots[0]))
  h.hart.i32[WORD.priv] = PRIV.S
  // All of memory is open to S and U.
  h.hart.set(LAYOUT.pmpaddr, (1n << 54n) - 1n)
  h.hart.set(LAYOUT.pmpcfg, 0x1fn)
  changed(h)
}

/** After registers were set from outside, as when a stream was loaded. */
export function changed({ hart, core }: CompilingHart): void {
  Atomics.or(hart.i32, WORD.request, Request.flushAll)
  core.serveRequests()
}

/** The same on the interpreter and compiled, early or late: registers, counters and memory. */
export function agrees(
  prepare: (hart: CompilingHart) => number,
  { polls, poolPages }: { polls?: number; poolPages?: number } = {},
): CompilingHart[] {
  const expected = prepared(undefined, poolPages)
  expected.run(prepare(expected), polls)
  return THRESHOLDS.map((threshold) => {
    const hart = prepared(threshold, poolPages)
    hart.run(prepare(hart), polls)
    expect(hart.registers(), `threshold ${threshold}`).toEqual(expected.registers())
    expect(Buffer.compare(hart.ram, expected.ram), `memory, threshold ${threshold}`).toBe(0)
    expect(hart.counter('regionsFailed')).toBe(0)
    return hart
  })
}

/** mulberry32 */
export function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}
