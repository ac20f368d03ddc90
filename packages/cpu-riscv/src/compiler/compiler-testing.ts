import { GuestMemory, PhysicalMap } from '@ferryvm/core'
import { CONTROL_BYTES, ControlBlock } from '../hart/control.ts'
import { GuestViews } from '../hart/guest-views.ts'
import { COUNTER, HartState } from '../hart/hart-state.ts'
import { directMmio } from '../hart/hart-testing.ts'
import { hartAreaBytes, LAYOUT } from '../hart/layout.ts'
import { PROFILES } from '../hart/profile.ts'
import { resetHart } from '../hart/reset.ts'
import { makeInterpreter } from '../interpreter/interpreter.ts'
import { HartCore } from '../worker/hart-core.ts'

export const RAM_BASE = 0x8000_0000
export const RAM_BYTES = 8 << 20
const FINISHER = 0x10_0000

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
  counter(name: keyof typeof COUNTER): number
  /** Everything that a guest, or a stream, can see of the hart. */
  registers(): readonly bigint[]
}

/** @param threshold jumps that make code hot; undefined: everything is interpreted */
export function compilingHart(threshold: number | undefined, poolPages = 256): CompilingHart {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const block = memory.addBlock('ram', RAM_BYTES)
  map.addRam(RAM_BASE, block)
  let finished = false
  map.addMmio(FINISHER, 4096, { read: () => 0, write: () => void (finished = true) }, 'finisher')
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
      virtualNs: () => 0,
      compile: threshold === undefined ? undefined : { memory: memory.memory, threshold },
    },
    (imports, compiled) => makeInterpreter({ memory: memory.memory, hartBase: hart.base, profile, imports, compiled }),
  )
  const ram = block.bytes as Uint8Array<SharedArrayBuffer>
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length)
  return {
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
