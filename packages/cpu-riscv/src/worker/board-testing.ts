import { createSaveStateRegistry, GuestMemory, PhysicalMap, silentLogger, VirtualClock } from '@ferryvm/core'
import { type Accelerator, rv64 } from '../rv64.ts'
import type { Rv64Cpu } from '../rv64-cpu.ts'

export const RAM_BASE = 0x8000_0000
const open: (() => Promise<void>)[] = []
/** What every test ends with. */
export async function closeBoards(): Promise<void> {
  for (const close of open.splice(0)) await close()
}

export interface BoardOptions {
  readonly ramBytes?: number
  /** Default 2. */
  readonly compileThreshold?: number
  /** The guest has stored to 0x10000000, in 32 bits. */
  readonly onWrite?: (value: number) => void
}

/** A CPU in its own threads, a log of what the guest stored at 0x10000000, and a place to say "done". */
export async function board(
  program: ArrayLike<number>,
  harts = 1,
  accel: Accelerator = 'interp',
  { ramBytes = 4 << 20, compileThreshold = 2, onWrite }: BoardOptions = {},
) {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const ram = memory.addBlock('ram', ramBytes)
  map.addRam(RAM_BASE, ram)
  const rom = memory.addBlock('rom', 4096)
  map.addRam(0x1000, rom, 'rom')
  // lui t0, 0x80000 sign-extends; so: li t0, 1; slli t0, t0, 31; jr t0
  new Uint32Array(rom.bytes.buffer, rom.offset, 3).set([0x00100293, 0x01f29293, 0x00028067])
  new Uint32Array(ram.bytes.buffer, ram.offset, program.length).set(program)
  const log: bigint[] = []
  let done!: (value: number) => void
  const finished = new Promise<number>((resolve) => (done = resolve))
  map.addMmio(
    0x1000_0000,
    16,
    {
      read: () => 0,
      write: (_, __, value) => {
        log.push(BigInt(value))
        onWrite?.(value)
      },
      read64: () => log.at(-1)! + 1n,
      write64: (_, value) => void log.push(value),
    },
    'log',
  )
  map.addMmio(0x10_0000, 4096, { read: () => 0, write: (_, __, value) => done(value) }, 'finisher')
  const clock = new VirtualClock()
  // Allocations follow each other: the CPU takes a page for what harts share, then one hart's area.
  const hartBase = memory.allocate(4096) + 8192
  const sections = createSaveStateRegistry()
  const failures: Error[] = []
  const cpu = (await rv64({ harts, accel, compileThreshold }).realize({
    map,
    clock,
    sections,
    log: silentLogger,
    fatal: (error) => void failures.push(error),
  })) as Rv64Cpu
  open.push(() => cpu.close())
  await cpu.ready
  return {
    memory,
    map,
    hartBase,
    ram,
    cpu,
    clock,
    log,
    sections,
    failures,
    finished,
    start() {
      clock.start()
      cpu.start()
    },
    word: (address: number) => new DataView(ram.bytes.buffer, ram.offset + address - RAM_BASE, 8).getBigUint64(0, true),
  }
}
