import { GuestMemory, PhysicalMap, type RamBlock } from '@ferryvm/core'
import type { DecodedCode, InterpreterExports, SystemImports } from '../interpreter/contract.ts'
import { HartCore } from '../worker/hart-core.ts'
import type { MmioClient } from '../worker/mailbox.ts'
import { CONTROL_BYTES, ControlBlock } from './control.ts'
import { GuestViews } from './guest-views.ts'
import { HartState, WORD } from './hart-state.ts'
import { hartAreaBytes, LAYOUT } from './layout.ts'
import { type HartProfile, PROFILES, type ProfileName, withInterruptFiles } from './profile.ts'
import { resetHart } from './reset.ts'

export const RAM_BASE = 0x8000_0000
const POOL_PAGES = 16

/** MMIO of a hart that runs in the test's own thread: the map is asked directly. */
export function directMmio(map: PhysicalMap): MmioClient {
  const client = {
    value: 0n,
    read(address: number, bytes: 1 | 2 | 4 | 8) {
      const value = map.mmioRead(address, bytes)
      client.value = value ?? 0n
      return value !== undefined
    },
    missingPage: -1,
    write: (address: number, bytes: 1 | 2 | 4 | 8, value: bigint) => map.mmioWrite(address, bytes, value),
    claim: (page: number) => map.memory.guards.claim(page),
  }
  return client as unknown as MmioClient
}

/** What a test watches instead of an interpreter. */
export interface CodeCalls {
  readonly cleared: { slots: number; offset: number; bytes: number }[]
  readonly prepared: number[]
}

export interface TestHart {
  readonly memory: GuestMemory
  readonly map: PhysicalMap
  readonly ram: RamBlock
  readonly hart: HartState
  readonly core: HartCore
  readonly imports: SystemImports
  readonly code: CodeCalls
  readonly control: ControlBlock
  readonly profile: HartProfile
  /** Virtual time, ns. */
  time: { ns: number }
  /** Cause and value if a slow path trapped since the last call. */
  trap(): { cause: number; value: bigint } | undefined
  writeWord(address: number, value: bigint): void
  readWord(address: number): bigint
}

/** A hart without interpreter and thread: 4 MiB of RAM at {@link RAM_BASE}, imports called by hand. */
export function testHart(
  options: { profile?: ProfileName; guestFiles?: number; run?: (budget: number) => number } = {},
): TestHart {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const ram = memory.addBlock('ram', 4 << 20)
  map.addRam(RAM_BASE, ram)
  const controlBase = memory.allocate(CONTROL_BYTES)
  const base = memory.allocate(hartAreaBytes(POOL_PAGES))
  const control = new ControlBlock(memory.buffer, controlBase)
  const hart = new HartState(memory.buffer, base, 0)
  const plain = PROFILES[options.profile ?? 'qemu-7.2']
  const { guestFiles } = options
  const profile = guestFiles === undefined ? plain : withInterruptFiles(plain, guestFiles)
  resetHart(hart, profile)
  hart.set(LAYOUT.mtimecmp, (1n << 64n) - 1n)
  control.setMappings(map.ramMappings())
  const code: CodeCalls = { cleared: [], prepared: [] }
  const decoded: DecodedCode = {
    decode: () => {},
    initPage: (slots) => void code.prepared.push(slots),
    clearSlots: (slots, offset, bytes) => void code.cleared.push({ slots, offset, bytes }),
    memoryGrew: () => {},
  }
  const time = { ns: 0 }
  let imports!: SystemImports
  const core = new HartCore(
    {
      hart,
      views: new GuestViews(memory.memory, memory.dirtyLog.offsets),
      control,
      profile,
      mmio: directMmio(map),
      poolPages: POOL_PAGES,
      virtualNs: () => time.ns,
    },
    (given) => {
      imports = given
      const exports = { run: options.run ?? (() => 0), exitInsn: { value: 0 } } as unknown as InterpreterExports
      return { code: decoded, exports }
    },
  )
  return {
    memory,
    map,
    ram,
    hart,
    core,
    imports,
    code,
    control,
    profile,
    time,
    trap() {
      if (hart.i32[WORD.trapPending] === 0) return undefined
      hart.i32[WORD.trapPending] = 0
      return { cause: Number(hart.get(LAYOUT.trapCause)), value: hart.get(LAYOUT.trapValue) }
    },
    writeWord: (address, value) =>
      new DataView(ram.bytes.buffer).setBigUint64(ram.offset + address - RAM_BASE, BigInt.asUintN(64, value), true),
    readWord: (address) => new DataView(ram.bytes.buffer).getBigUint64(ram.offset + address - RAM_BASE, true),
  }
}
