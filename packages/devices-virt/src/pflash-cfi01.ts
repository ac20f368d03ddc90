/**
 * NOR flash with the Intel command set (CFI primary 1): one bank of two x16 devices side by side.
 * Spec: Intel/Sharp Extended Command Set, CFI publication 100; virt-machine.md section 6.6; virt-vmstate.md section 12.
 * The array is a RAM block: in array mode harts read it like memory, otherwise every access comes here.
 */
import {
  buffer,
  type Device,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  type RamBlock,
  type StateOfVmstate,
  u8,
  u32,
  u64Number,
  validate,
} from '@ferryvm/core'
import { z } from 'zod'

const READ_ARRAY = 0xff
const READ_ARRAY_ALSO = [0x00, 0xf0, READ_ARRAY]
const PROGRAM = 0x40
const PROGRAM_ALSO = 0x10
const ERASE = 0x20
const CLEAR_STATUS = 0x50
const LOCK = 0x60
const READ_STATUS = 0x70
const READ_ID = 0x90
const CFI_QUERY = 0x98
const BUFFERED_WRITE = 0xe8
const CONFIRM = 0xd0
const LOCK_SET = 0x01

const STATUS_READY = 0x80
const STATUS_PROGRAM_ERROR = 0x10

const BANK_BYTES = 32 * 2 ** 20
const BANK_WIDTH = 4
const DEVICES = 2
const SECTOR_BYTES = 256 * 1024
const SECTORS = BANK_BYTES / SECTOR_BYTES
const WRITE_BUFFER_BYTES = 4096
const NO_BLOCK = 0xffff_ffff
const IDS = [0x89, 0x18]

export const pflashCfi01Vmstate = defineVmstate({
  name: 'pflash_cfi01',
  version: 1,
  fields: {
    /** Which bus cycle of a command comes next; 0: none is under way. */
    wcycle: u8(),
    cmd: u8(),
    status: u8({ reset: STATUS_READY }),
    /** Data cycles of a buffered write that are still to come. */
    counter: u64Number(),
  },
  subsections: {
    pflash_cfi01_blk_write: {
      version: 1,
      fields: {
        /** The block being written by a buffered write, with the new data. */
        blk_bytes: buffer(WRITE_BUFFER_BYTES),
        blk_offset: u32({ reset: NO_BLOCK }),
        bounds: validate(
          'the block of a buffered write lies in the bank and is aligned to the write buffer',
          (s: { blk_offset: number }) =>
            s.blk_offset === NO_BLOCK || (s.blk_offset < BANK_BYTES && s.blk_offset % WRITE_BUFFER_BYTES === 0),
        ),
      },
      needed: (s) => s.blk_offset !== NO_BLOCK,
    },
  },
  preLoad(s) {
    s.blk_offset = NO_BLOCK
  },
})
type FlashState = StateOfVmstate<typeof pflashCfi01Vmstate>

/** Placement: the bank at `at`. */
export const pflashCfi01 = defineDevice({
  type: 'pflash-cfi01',
  props: z.object({
    /** Name of the RAM block: `virt.flash0`. */
    idstr: z.string().min(1),
  }),
  migration: pflashCfi01Vmstate,
  realize: (ctx, { idstr }) => new PflashCfi01(ctx, idstr),
})

class PflashCfi01 implements Device {
  readonly #ctx: DeviceContext<FlashState>
  readonly #ram: ReturnType<DeviceContext<FlashState>['ram']>

  constructor(ctx: DeviceContext<FlashState>, idstr: string) {
    this.#ctx = ctx
    this.#ram = ctx.ram(idstr, BANK_BYTES, {
      mode: 'romd',
      writes: {
        sizes: [1, 2, 4],
        read: (offset, bytes) => this.#read(offset, bytes),
        write: (offset, bytes, value) => this.#write(offset, bytes, value >>> 0),
      },
    })
  }

  get #block(): RamBlock {
    return this.#ram.block
  }

  /** The array keeps its contents. */
  reset(): void {
    const s = this.#ctx.state
    s.status = STATUS_READY
    s.counter = 0
    s.blk_offset = NO_BLOCK
    this.#readArray()
  }

  /** Mode follows from the state; nothing else says it after a load. */
  resume(): void {
    const { cmd, wcycle } = this.#ctx.state
    this.#ram.setMode(cmd === 0 && wcycle === 0 ? 'romd' : 'io')
  }

  describe(): string {
    const { cmd, wcycle, status } = this.#ctx.state
    return `cmd=0x${cmd.toString(16)} cycle=${wcycle} status=0x${status.toString(16)}`
  }

  /** @throws PageMissingError a part of the array is still with the sender of a migration */
  #demand(offset: number, bytes: number): void {
    this.#ctx.machine.physical.memory.missing.demand(this.#block.offset + offset, bytes)
  }

  #readArray(): void {
    this.#ctx.state.cmd = 0
    this.#ctx.state.wcycle = 0
    this.#ram.setMode('romd')
  }

  #read(offset: number, bytes: 1 | 2 | 4): number {
    const { cmd, status } = this.#ctx.state
    let answer: number
    if (cmd === 0) {
      this.#demand(offset, bytes)
      return loadBytes(this.#block.bytes, offset, bytes)
    }
    if (cmd === READ_ID) answer = IDS[Math.floor((offset & 0xff) / BANK_WIDTH)] ?? 0
    else if (cmd === CFI_QUERY) answer = CFI[Math.floor(offset / BANK_WIDTH)] ?? 0
    else answer = status
    // Both devices answer, each on its 16 lines.
    return bytes === 4 ? answer | (answer << 16) : answer
  }

  #write(offset: number, bytes: 1 | 2 | 4, value: number): void {
    const s = this.#ctx.state
    const command = value & 0xff
    // Whatever the command changes is in this sector, or in the block of a buffered write. All of it, or the store comes again.
    this.#demand(offset - (offset % SECTOR_BYTES), SECTOR_BYTES)
    if (s.blk_offset !== NO_BLOCK) this.#demand(s.blk_offset, WRITE_BUFFER_BYTES)
    this.#ram.setMode('io')
    if (s.wcycle === 0) this.#command(command, offset)
    else if (s.wcycle === 1) this.#secondCycle(command, offset, bytes, value)
    else if (s.wcycle === 2) this.#bufferedData(offset, bytes, value)
    else this.#bufferedConfirm(command)
  }

  #command(command: number, offset: number): void {
    const s = this.#ctx.state
    if (READ_ARRAY_ALSO.includes(command)) {
      this.#readArray()
      return
    }
    switch (command) {
      case PROGRAM:
      case PROGRAM_ALSO:
      case LOCK:
      case CFI_QUERY:
        s.wcycle = 1
        break
      case ERASE: {
        const sector = offset - (offset % SECTOR_BYTES)
        this.#change(sector, SECTOR_BYTES, (bytes) => bytes.fill(0xff, sector, sector + SECTOR_BYTES))
        s.status |= STATUS_READY
        s.wcycle = 1
        break
      }
      case BUFFERED_WRITE:
        s.status |= STATUS_READY
        s.wcycle = 1
        break
      case CLEAR_STATUS:
        s.status = 0
        this.#readArray()
        return
      case READ_STATUS:
      case READ_ID:
        break
      default:
        this.#unknown(command)
        return
    }
    s.cmd = command
  }

  #secondCycle(command: number, offset: number, bytes: number, value: number): void {
    const s = this.#ctx.state
    switch (s.cmd) {
      case PROGRAM:
      case PROGRAM_ALSO:
        this.#change(offset, bytes, (array) => storeBytes(array, offset, bytes, value))
        s.status |= STATUS_READY
        s.wcycle = 0
        break
      case ERASE:
        if (command === CONFIRM) {
          s.status |= STATUS_READY
          s.wcycle = 0
        } else if (command === READ_ARRAY) this.#readArray()
        else this.#unknown(command)
        break
      case LOCK:
        if (command === CONFIRM || command === LOCK_SET) {
          s.status |= STATUS_READY
          s.wcycle = 0
        } else if (command === READ_ARRAY) this.#readArray()
        else this.#unknown(command)
        break
      case CFI_QUERY:
        // Only this ends a query.
        if (command === READ_ARRAY) this.#readArray()
        break
      case BUFFERED_WRITE:
        // Number of data cycles less one, in the width of one device. Where this is written is the block.
        s.counter = value & 0xffff
        s.blk_offset = offset - (offset % WRITE_BUFFER_BYTES)
        s.blk_bytes.set(this.#block.bytes.subarray(s.blk_offset, s.blk_offset + WRITE_BUFFER_BYTES))
        s.wcycle = 2
        break
      default:
        this.#unknown(command)
    }
  }

  #bufferedData(offset: number, bytes: number, value: number): void {
    const s = this.#ctx.state
    // (A stream can say that data comes and not for which block.)
    if (s.blk_offset !== NO_BLOCK && offset >= s.blk_offset && offset + bytes <= s.blk_offset + WRITE_BUFFER_BYTES) {
      storeBytes(s.blk_bytes, offset - s.blk_offset, bytes, value)
    } else s.status |= STATUS_PROGRAM_ERROR
    if (s.counter === 0) s.wcycle = 3
    else s.counter--
  }

  #bufferedConfirm(command: number): void {
    const s = this.#ctx.state
    if (command !== CONFIRM) {
      s.blk_offset = NO_BLOCK
      this.#unknown(command)
      return
    }
    const at = s.blk_offset
    s.blk_offset = NO_BLOCK
    if (at === NO_BLOCK || s.status & STATUS_PROGRAM_ERROR) {
      this.#readArray()
      return
    }
    this.#change(at, WRITE_BUFFER_BYTES, (bytes) => bytes.set(s.blk_bytes, at))
    s.status |= STATUS_READY
    s.wcycle = 0
  }

  #unknown(command: number): void {
    this.#ctx.log.guestError('flash: command that is not implemented here', { command })
    this.#readArray()
  }

  #change(offset: number, length: number, change: (array: Uint8Array) => void): void {
    const { memory } = this.#ctx.machine.physical
    memory.willWrite(this.#block.offset + offset, length)
    change(this.#block.bytes)
    memory.written(this.#block.offset + offset, length)
  }
}

/** What a CFI query answers, per device, by byte index. */
const CFI: readonly number[] = (() => {
  const table = new Array<number>(0x40).fill(0)
  const put = (at: number, ...bytes: number[]): void => {
    bytes.forEach((byte, i) => {
      table[at + i] = byte
    })
  }
  const ascii = (text: string): number[] => [...text].map((c) => c.charCodeAt(0))
  put(0x10, ...ascii('QRY'))
  put(0x13, 0x01, 0x00) // primary command set
  put(0x15, 0x31, 0x00) // address of its table
  put(0x1b, 0x45, 0x55, 0x00, 0x00, 0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00) // voltages, timeouts
  put(0x27, Math.log2(BANK_BYTES / DEVICES))
  put(0x28, 0x02, 0x00) // x8 and x16
  put(0x2a, Math.log2(WRITE_BUFFER_BYTES / DEVICES), 0x00)
  put(0x2c, 0x01) // erase regions
  put(0x2d, (SECTORS - 1) & 0xff, (SECTORS - 1) >> 8)
  const sectorUnits = SECTOR_BYTES / DEVICES / 256
  put(0x2f, sectorUnits & 0xff, sectorUnits >> 8)
  put(0x31, ...ascii('PRI10'))
  put(0x3f, 0x01) // protection fields
  return table
})()

function loadBytes(bytes: Uint8Array, offset: number, length: number): number {
  let value = 0
  for (let i = length - 1; i >= 0; i--) value = value * 256 + bytes[offset + i]!
  return value
}

function storeBytes(bytes: Uint8Array, offset: number, length: number, value: number): void {
  for (let i = 0; i < length; i++) bytes[offset + i] = (value >>> (8 * i)) & 0xff
}
