import {
  type Cpu,
  type CpuSpec,
  createSaveStateRegistry,
  GuestMemory,
  PAGE_BYTES,
  PhysicalMap,
  type RamBlock,
  type SaveStateRegistry,
  silentLogger,
  VirtualClock,
} from '@ferryvm/core'
import { check, sleep, type TestRunner, within } from '../runner.ts'
import { loadBytes, saveBytes } from '../vmstate/engines.ts'

/** Programs in the machine code of the CPU that is tested, little-endian words; they run from the start of RAM, on every hart. */
export interface CpuPrograms {
  /**
   * For ever: adds 1 to the 64-bit word at the address that the kit hands over ({@link COUNTER_ADDRESS}), which it reads from
   * and writes to memory each time.
   */
  readonly count: Uint8Array
}
export interface CpuComplianceOptions {
  create(harts: number): CpuSpec
  /** Where the harts begin after reset, and what stands there; it jumps to {@link RAM_BASE}. */
  readonly reset: { readonly address: number; readonly code: Uint8Array }
  readonly programs: CpuPrograms
  /** Names for `readRegister` whose values a migration must not lose. */
  readonly registers: readonly string[]
}

export const RAM_BASE = 0x8000_0000
export const RAM_BYTES = 1 << 20
/** A page of its own, so that nothing else makes it dirty. */
export const COUNTER_ADDRESS = RAM_BASE + 0x1_0000
const WAIT_MS = 20_000

/** What a machine, a monitor and a migration need of a CPU. */
export function cpuCompliance({ describe, it }: TestRunner, options: CpuComplianceOptions): void {
  const boards: Board[] = []
  const withBoard = (name: string, run: (board: Board) => Promise<void>, harts = 1): void => {
    it(name, async () => {
      try {
        boards.push(await Board.create(options, harts))
        await within(run(boards[0]!), name, WAIT_MS)
      } finally {
        for (const board of boards.splice(0)) await board.cpu.close()
      }
    })
  }

  describe('a CPU', () => {
    withBoard('does nothing before it is started', async ({ cpu, counter }) => {
      const retired = cpu.instructionsRetired
      await sleep(30)
      check(counter() === 0n && cpu.instructionsRetired === retired, 'no instruction is retired')
    })

    withBoard('runs from its reset address once started, and counts what it retires', async (board) => {
      board.start()
      await board.counts()
      await board.cpu.pause()
      check(board.cpu.instructionsRetired >= board.counter(), 'each turn of the program is an instruction at least')
      check(board.failures.length === 0, `nothing is fatal: ${board.failures}`)
    })

    withBoard('stands still while paused, and goes on from there', async (board) => {
      board.start()
      await board.counts()
      for (let round = 0; round < 5; round++) {
        await board.cpu.pause()
        const before = [board.counter(), ...board.registers(options.registers)]
        await sleep(10)
        check(String([board.counter(), ...board.registers(options.registers)]) === String(before), 'nothing changes')
        board.cpu.start()
        await board.counts()
        check(board.counter() > before[0]!, 'it counts on and does not begin again')
      }
    })

    withBoard('pausing twice is pausing once, and pause resolves for a CPU that never ran', async ({ cpu, start }) => {
      await cpu.pause()
      start()
      await Promise.all([cpu.pause(), cpu.pause()])
      await cpu.pause()
    })

    withBoard('reset puts the registers back to what they were at power-on', async (board) => {
      const before = String(board.registers(options.registers))
      board.start()
      await board.counts()
      await board.cpu.pause()
      check(String(board.registers(options.registers)) !== before, 'running changes registers (else nothing is tested)')
      board.cpu.reset()
      check(String(board.registers(options.registers)) === before, 'they are back')
    })

    withBoard('a page written after its bit was taken is dirty again', async (board) => {
      const { cpu, memory } = board
      board.start()
      await board.counts()
      memory.dirtyLog.enabled = true
      await cpu.flushWriteTlb()
      for (let round = 0; round < 20; round++) {
        board.takeDirty()
        await cpu.flushWriteTlb()
        const copy = board.counter()
        while (board.counter() === copy) await sleep(0)
        await sleep(0)
        check(board.isDirty(COUNTER_ADDRESS), `round ${round}: the counter went on and its page is not dirty`)
      }
    })

    withBoard('after it was paused, what the dirty log does not name has not changed', async (board) => {
      const { cpu, memory } = board
      memory.dirtyLog.enabled = true
      board.start()
      await board.counts()
      for (let round = 0; round < 20; round++) {
        board.takeDirty()
        await cpu.flushWriteTlb()
        const copy = board.counter()
        await sleep(round % 3)
        await cpu.pause()
        if (!board.isDirty(COUNTER_ADDRESS)) check(board.counter() === copy, `round ${round}: a write was lost`)
        cpu.start()
      }
    })

    withBoard('a guarded page is shown before it is written, once, with what was in it', async (board) => {
      const { cpu, memory, ram } = board
      board.start()
      await board.counts()
      for (let round = 0; round < 20; round++) {
        await cpu.pause()
        const before = board.counter()
        const shown = new Map<number, Uint8Array>()
        using guard = memory.guards.create({
          beforeWrite(page) {
            check(!shown.has(page), `page ${page} is shown twice`)
            shown.set(page, new Uint8Array(memory.buffer, page * PAGE_BYTES, PAGE_BYTES).slice())
          },
        })
        guard.add(ram.offset / PAGE_BYTES, RAM_BYTES / PAGE_BYTES)
        await cpu.flushWriteTlb()
        cpu.start()
        await board.counts()
        const page = (ram.offset + COUNTER_ADDRESS - RAM_BASE) / PAGE_BYTES
        const kept = shown.get(page)
        check(kept !== undefined && !guard.has(page), `round ${round}: the counter went on and nobody was asked`)
        check(new DataView(kept!.buffer).getBigUint64(0, true) === before, 'the old counter is what was shown')
      }
    })

    withBoard('a write that a guard holds up comes when it may, and the CPU can be paused meanwhile', async (board) => {
      const { cpu, memory, ram } = board
      board.start()
      await board.counts()
      await cpu.pause()
      let full = true
      using guard = memory.guards.create({ beforeWrite() {}, full: () => full })
      guard.add(ram.offset / PAGE_BYTES, RAM_BYTES / PAGE_BYTES)
      await cpu.flushWriteTlb()
      const before = board.counter()
      for (let round = 0; round < 3; round++) {
        cpu.start()
        await sleep(10)
        await cpu.pause()
        check(board.counter() === before, 'a page that is held was written')
      }
      cpu.start()
      full = false
      guard.proceed()
      await board.counts()
    })

    withBoard('code that was written from outside is what runs after flushAll', async (board) => {
      board.start()
      await board.counts()
      await board.cpu.pause()
      const there = board.counter()
      board.ram.bytes.set(new Uint8Array(options.programs.count.length))
      board.ram.bytes.set(options.programs.count)
      board.setCounter(0n)
      board.cpu.reset()
      board.cpu.flushAll()
      board.cpu.start()
      await board.counts()
      check(board.counter() !== there, 'it counts from 0 again')
    })

    withBoard('another CPU that loads its sections goes on where it stood', async (board) => {
      board.start()
      await board.counts()
      await board.cpu.pause()
      const saved = board.save()
      check(saved.length > 0, 'it registers a section')
      const other = await Board.create(options, 1)
      boards.push(other)
      other.ram.bytes.set(board.ram.bytes)
      other.load(saved)
      check(
        String(other.registers(options.registers)) === String(board.registers(options.registers)),
        'the registers are those of the source',
      )
      // Not the same bytes: counters of time are in them, and each board has a clock of its own.
      const sizes = (all: readonly Saved[]) => all.map(({ idstr, bytes }) => `${idstr} ${bytes.length}`).join()
      check(sizes(other.save()) === sizes(saved), 'saved again, its sections are as long')
      other.cpu.flushAll()
      const before = other.counter()
      other.start()
      await other.counts()
      check(other.counter() > before, 'and it goes on counting where the source was')
    })

    withBoard(
      'has a port for each hart, and describes each',
      async ({ cpu }) => {
        check(cpu.harts.map(({ index }) => index).join() === '0,1', 'two harts, 0 and 1')
        await cpu.pause()
        for (const { index } of cpu.harts) check(cpu.describe(index).length > 0, `hart ${index} is described`)
      },
      2,
    )

    withBoard('closing ends its threads, twice is once', async ({ cpu, start }) => {
      start()
      await cpu.close()
      await cpu.close()
    })
  })
}

interface Saved {
  readonly idstr: string
  readonly bytes: Uint8Array
}

/** A CPU, its memory, and the program. */
class Board {
  readonly memory: GuestMemory
  readonly ram: RamBlock
  readonly cpu: Cpu
  readonly failures: Error[]
  readonly #sections: SaveStateRegistry
  readonly #clock: VirtualClock

  static async create({ create, reset, programs }: CpuComplianceOptions, harts: number): Promise<Board> {
    const memory = new GuestMemory()
    const map = new PhysicalMap(memory)
    const ram = memory.addBlock('ram', RAM_BYTES)
    map.addRam(RAM_BASE, ram)
    const rom = memory.addBlock('rom', PAGE_BYTES, { migrates: false })
    map.addRam(reset.address, rom, 'rom')
    rom.bytes.set(reset.code)
    ram.bytes.set(programs.count)
    const [clock, sections, failures] = [new VirtualClock(), createSaveStateRegistry(), [] as Error[]]
    const fatal = (error: Error) => void failures.push(error)
    const cpu = await create(harts).realize({ map, clock, sections, log: silentLogger, fatal })
    await cpu.ready
    return new Board({ memory, ram, cpu, failures }, sections, clock)
  }

  private constructor(
    parts: Pick<Board, 'memory' | 'ram' | 'cpu' | 'failures'>,
    sections: SaveStateRegistry,
    clock: VirtualClock,
  ) {
    this.memory = parts.memory
    this.ram = parts.ram
    this.cpu = parts.cpu
    this.failures = parts.failures
    this.#sections = sections
    this.#clock = clock
  }

  readonly start = (): void => {
    this.#clock.start()
    this.cpu.start()
  }
  readonly counter = (): bigint => this.#view.getBigUint64(0, true)
  setCounter(value: bigint): void {
    this.#view.setBigUint64(0, value, true)
  }
  get #view(): DataView {
    return new DataView(this.ram.bytes.buffer, this.ram.offset + COUNTER_ADDRESS - RAM_BASE, 8)
  }

  /** Resolves when the counter has gone on. */
  async counts(): Promise<void> {
    const before = this.counter()
    while (this.counter() < before + 10n && this.failures.length === 0) await sleep(1)
    check(this.failures.length === 0, `the CPU failed: ${this.failures[0]}`)
  }

  registers(names: readonly string[]): bigint[] {
    return names.map((name) => this.cpu.readRegister(0, name))
  }

  /** Takes the bits of all pages. @returns one bit per page */
  takeDirty(): Int32Array {
    const pages = new Int32Array(RAM_BYTES / PAGE_BYTES / 32)
    this.memory.dirtyLog.take(this.ram, pages)
    return pages
  }
  isDirty(address: number): boolean {
    const page = (address - RAM_BASE) / PAGE_BYTES
    return (this.takeDirty()[page >> 5]! & (1 << (page & 31))) !== 0
  }

  /** Of each section that it registered, in its order. */
  save(): Saved[] {
    return this.#devices().map(({ idstr, device }) => ({ idstr, bytes: saveBytes(device.codec, device.state) }))
  }
  load(saved: readonly Saved[]): void {
    const devices = this.#devices()
    check(devices.length === saved.length, 'both have the same sections')
    devices.forEach(({ idstr, version, device }, i) => {
      const left = loadBytes(device.codec, device.state, saved[i]!.bytes, version)
      check(left === 0, `${idstr}: ${left} bytes are left over`)
    })
  }
  #devices() {
    return this.#sections
      .entries()
      .flatMap(({ idstr, version, device }) => (device?.needed() ? [{ idstr, version, device }] : []))
  }
}
