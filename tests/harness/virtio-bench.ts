import {
  bufferReader,
  bufferWriter,
  type DeviceSpec,
  defineDevice,
  drive,
  type Logger,
  type Machine,
  silentLogger,
  stateless,
} from '@ferryvm/core'
import { gpex } from '@ferryvm/devices-pci'
import { virtioMmio } from '@ferryvm/devices-virtio'
import { createMachine } from '@ferryvm/machine'
import { fakeCpu } from './fake-cpu.ts'

export const RAM = 0x8000_0000
export const ECAM = 0x3000_0000
export const PIO = 0x0300_0000
export const MMIO_SLOT = (n: number) => 0x1000_1000 + n * 0x1000

/** A machine of buses and virtio devices without a CPU: the test reads and writes what a guest would. */
export class VirtioBench implements AsyncDisposable {
  readonly machine: Machine
  readonly guestErrors: string[]
  /** Level of every interrupt line by number. */
  readonly lines: Map<number, boolean>

  private constructor(machine: Machine, guestErrors: string[], lines: Map<number, boolean>) {
    this.machine = machine
    this.guestErrors = guestErrors
    this.lines = lines
  }

  static async create(devices: readonly DeviceSpec[], options: { harts?: number; forceLegacy?: boolean } = {}) {
    const guestErrors: string[] = []
    const lines = new Map<number, boolean>()
    const log: Logger = {
      ...silentLogger,
      guestError: (m, facts) => void guestErrors.push(`${m} ${JSON.stringify(facts, bigints)}`),
    }
    const controller = defineDevice({
      type: 'lines',
      props: { '~standard': { version: 1, vendor: 'test', validate: (value: unknown) => ({ value }) } },
      migration: stateless,
      realize: (ctx) => {
        ctx.machine.provideInterruptController((n) => ({ set: (level) => void lines.set(n, level) }))
        return {}
      },
    })
    const machine = await createMachine({
      name: 'virt',
      cpu: fakeCpu(options.harts),
      ram: [{ idstr: 'ram', base: RAM, sizeBytes: 16 << 20 }],
      platformBus: { base: 0x400_0000, sizeBytes: 32 << 20, firstIrq: 64, irqCount: 32 },
      log,
      devices: [
        controller({}),
        virtioMmio({ forceLegacy: options.forceLegacy ?? true }, { irq: 1 }),
        gpex({}, { irq: 32 }),
        ...devices,
      ],
    })
    return new VirtioBench(machine, guestErrors, lines)
  }

  read(address: number, bytes: 1 | 2 | 4 | 8 = 4): number {
    const value = this.machine.physical.mmioRead(address, bytes)
    if (value === undefined) throw new Error(`nothing answers at 0x${address.toString(16)}`)
    return Number(value)
  }

  write(address: number, value: number | bigint, bytes: 1 | 2 | 4 | 8 = 4): void {
    if (!this.machine.physical.mmioWrite(address, bytes, BigInt(value))) {
      throw new Error(`nothing answers at 0x${address.toString(16)}`)
    }
  }

  get ram(): Uint8Array {
    return this.machine.memory.blocks[0]!.bytes
  }

  peek(address: number, bytes: number): Uint8Array {
    return this.ram.slice(address - RAM, address - RAM + bytes)
  }

  poke(address: number, bytes: Uint8Array): void {
    this.ram.set(bytes, address - RAM)
  }

  poke16(address: number, value: number): void {
    this.poke(address, Uint8Array.of(value & 0xff, value >> 8))
  }

  peek16(address: number): number {
    const [low, high] = this.peek(address, 2)
    return low! | (high! << 8)
  }

  section(idstr: string) {
    const entry = this.machine.sections.find(idstr, 0)
    if (!entry?.device) throw new Error(`no section ${idstr}`)
    return entry.device
  }

  save(idstr: string): Uint8Array {
    const { codec, state } = this.section(idstr)
    const out = bufferWriter()
    codec.save(state, out)
    return out.bytes()
  }

  load(idstr: string, body: Uint8Array, version: number): void {
    const { codec, state } = this.section(idstr)
    const input = bufferReader(body)
    drive(input, codec.load(state, input, version))
    if (input.available > 0) throw new Error(`${input.available} bytes left`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.machine[Symbol.asyncDispose]()
  }
}

const bigints = (_: string, value: unknown) => (typeof value === 'bigint' ? `0x${value.toString(16)}` : value)
