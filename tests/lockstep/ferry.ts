/** Runs an image on our CPU: RAM, a reset vector, the test finisher, a timer that never comes; nothing else. */
import { createSaveStateRegistry, GuestMemory, PhysicalMap, silentLogger, VirtualClock } from '@ferryvm/core'
import { type ProfileName, type Rv64Cpu, type Rv64Options, rv64 } from '@ferryvm/cpu-riscv'
import { MTIMECMP, RAM_BASE, TEST_FINISHER } from './layout.ts'
import type { MemoryRange } from './qemu.ts'

const MASK_ROM = 0x1000
/** auipc t0, 0; ld t0, 16(t0); jr t0; the address */
const RESET_CODE = [0x0000_0297, 0x0102_b283, 0x0002_8067, 0, RAM_BASE, 0]

export interface FerryRun {
  readonly dumps: Uint8Array[]
  readonly instructions: bigint
  readonly counters: Record<string, number>
}

/** @throws Error the CPU gave up, or the guest did not finish in time (with where it was) */
export async function runInFerry(
  profile: ProfileName,
  image: Uint8Array,
  ramBytes: number,
  ranges: readonly MemoryRange[],
  timeoutMs: number,
  options: Pick<Rv64Options, 'accel' | 'compileThreshold'> = {},
): Promise<FerryRun> {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const rom = memory.addBlock('rom', 0x1000)
  new Uint32Array(rom.bytes.buffer, rom.offset, RESET_CODE.length).set(RESET_CODE)
  const ram = memory.addBlock('ram', ramBytes)
  ram.bytes.set(image)
  map.addRam(MASK_ROM, rom, 'rom')
  map.addRam(RAM_BASE, ram)
  const finished = Promise.withResolvers<void>()
  map.addMmio(TEST_FINISHER, 0x1000, { read: () => 0, write: () => finished.resolve() }, 'test finisher')
  map.addMmio(MTIMECMP, 0x1000, { read: () => 0, write: () => {} }, 'no timer')
  const clock = new VirtualClock()
  const sections = createSaveStateRegistry()
  const fatal = (error: Error): void => finished.reject(error)
  const cpu = (await rv64({ profile, ...options }).realize({
    map,
    clock,
    sections,
    log: silentLogger,
    fatal,
  })) as Rv64Cpu
  const timer = setTimeout(async () => {
    await cpu.pause()
    finished.reject(new Error(`our CPU did not finish within ${timeoutMs} ms: ${cpu.describe(0)}`))
  }, timeoutMs)
  try {
    clock.start()
    cpu.start()
    await finished.promise
    await cpu.pause()
    const instructions = cpu.instructionsRetired
    const bytes = (r: MemoryRange): Uint8Array => ram.bytes.slice(r.address - RAM_BASE, r.address - RAM_BASE + r.bytes)
    return { dumps: ranges.map(bytes), instructions, counters: cpu.counters() }
  } finally {
    clearTimeout(timer)
    clock.stop()
    await cpu.close()
  }
}
