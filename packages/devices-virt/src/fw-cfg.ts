/**
 * Firmware configuration: a table of items that firmware and kernels read by key, byte by byte or by DMA.
 * Spec: virt-machine.md section 6.7; virt-vmstate.md section 13. Contents are the receiver's own and do not migrate, but for
 * the ACPI tables of stock 10.0, which are memory: we make none, and serve those that a guest brings along.
 */
import {
  type Device,
  DeviceConfigError,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  type RamBlock,
  registersItself,
  type StateOfVmstate,
  u16,
  u32,
  u64,
} from '@ferryvm/core'
import { z } from 'zod'

const DATA = 0x00
const SELECTOR = 0x08
const DMA = 0x10
const REGION_BYTES = 0x18
const KiB = 1024

const KEY = { signature: 0x00, id: 0x01, cpus: 0x05, directory: 0x19, firstFile: 0x20 } as const
/** Version 1 of the interface, with DMA. */
const ID = 1 | 2
const NAME_BYTES = 56
const MAX_FILES = 0x4000 - KEY.firstFile
/** "QEMU CFG" as a big-endian number: what the DMA register reads as. */
const DMA_SIGNATURE = 0x51454d5520434647n

const CONTROL = { error: 1, read: 2, skip: 4, select: 8, write: 16 } as const
const DMA_CHUNK_BYTES = 64 * 1024

export const fwCfgVmstate = defineVmstate({
  name: 'fw_cfg',
  version: 2,
  minimumVersion: 1,
  fields: {
    cur_entry: u16(),
    /** Version 1 had 16 bits, and the description still counts both rows. */
    cur_offset_v1: u16({ when: (_s, version) => version === 1, wireName: 'cur_offset' }),
    cur_offset: u32({ when: (_s, version) => version >= 2, wireName: 'cur_offset' }),
  },
  subsections: {
    'fw_cfg/dma': { version: 0, fields: { dma_addr: u64() }, needed: () => true },
    'fw_cfg/acpi_mr': {
      version: 1,
      fields: {
        /** Bytes that the files of ACPI have; their blocks may be longer. */
        table_mr_size: u64(),
        linker_mr_size: u64(),
        rsdp_mr_size: u64(),
      },
      needed: (s) => s.table_mr_size !== 0n,
    },
  },
  postLoad(s, version) {
    if (version === 1) s.cur_offset = s.cur_offset_v1
  },
})
type FwCfgState = StateOfVmstate<typeof fwCfgVmstate>

/** Files that stock 10.0 keeps in RAM blocks `/rom@NAME`: used and maximum length of the block, and where its file's length is. */
const ACPI_FILES = [
  { name: 'etc/acpi/tables', sizeBytes: 128 * KiB, maxBytes: 2048 * KiB, used: 'table_mr_size' },
  { name: 'etc/table-loader', sizeBytes: 4 * KiB, maxBytes: 64 * KiB, used: 'linker_mr_size' },
  { name: 'etc/acpi/rsdp', sizeBytes: 4 * KiB, maxBytes: 4 * KiB, used: 'rsdp_mr_size' },
] as const

export interface FwCfgFile {
  readonly name: string
  /** Absent: only its key is kept, because stock machines have such a file and number the others after it. */
  readonly data?: Uint8Array
}

interface FwCfgProps {
  readonly harts: number
  readonly files: readonly FwCfgFile[]
  readonly items: ReadonlyMap<number, Uint8Array>
  readonly acpi: boolean
}

const bytesProp = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'needs bytes')

/** Placement: registers at `at`. */
export const fwCfg = defineDevice({
  type: 'fw-cfg',
  props: z.object({
    /** What item 5 says. */
    harts: z.coerce.number().int().positive().default(1),
    /** Keys follow the order of names, from 0x20. */
    files: z
      .array(
        z.object({
          name: z
            .string()
            .min(1)
            .max(NAME_BYTES - 1),
          data: bytesProp.optional(),
        }),
      )
      .max(MAX_FILES)
      .default([]),
    /** More items by key: kernel 0x11, initrd 0x12, command line 0x15 ... */
    items: z.map(z.number().int().min(0).max(0x1f), bytesProp).default(new Map()),
    /** ACPI files that arrive are served, under the keys that stock 10.0 gives them, and leave with the machine again. */
    acpi: z.boolean().default(false),
  }),
  migration: registersItself,
  realize: (ctx, props) => new FwCfg(ctx, props),
})

class FwCfg implements Device {
  readonly #ctx: DeviceContext<undefined>
  readonly #state = fwCfgVmstate.createState()
  readonly #items: Map<number, Uint8Array>
  /** By name, in the order of their keys. */
  readonly #files: readonly FwCfgFile[]
  readonly #acpiBlocks = new Map<string, RamBlock>()

  constructor(ctx: DeviceContext<undefined>, { harts, files, items, acpi }: FwCfgProps) {
    this.#ctx = ctx
    for (const { name, sizeBytes, maxBytes } of ACPI_FILES) {
      const onReceived = () => {
        block.migrates = acpi
      }
      const { block } = ctx.ram(`/rom@${name}`, sizeBytes, undefined, { maxBytes, migrates: false, onReceived })
      this.#acpiBlocks.set(name, block)
    }
    const postLoad = (state: FwCfgState, version: number) => {
      fwCfgVmstate.postLoad?.(state, version)
      if (!acpi) state.table_mr_size = 0n
      this.#listFiles()
    }
    ctx.registerVmstate({ ...fwCfgVmstate, postLoad }, this.#state)
    this.#files = [...files, ...(acpi ? ACPI_FILES.map(({ name }) => ({ name })) : [])].sort((a, b) =>
      a.name < b.name ? -1 : a.name > b.name ? 1 : 0,
    )
    const twice = this.#files.find((file, i) => file.name === this.#files[i + 1]?.name)
    if (twice) throw new DeviceConfigError(ctx.id, `two files are named '${twice.name}'`)
    this.#items = new Map([
      [KEY.signature, new TextEncoder().encode('QEMU')],
      [KEY.id, Uint8Array.of(ID, 0, 0, 0)],
      [KEY.cpus, Uint8Array.of(harts & 0xff, harts >> 8)],
      ...items,
    ])
    this.#listFiles()
    ctx.mmio(REGION_BYTES, {
      read: (offset, bytes) => Number(this.#read(offset, bytes)),
      read64: (offset) => this.#read(offset, 8),
      write: (offset, bytes, value) => this.#write(offset, bytes, BigInt(value >>> 0)),
      write64: (offset, value) => this.#write(offset, 8, value),
    })
  }

  reset(): void {
    this.#select(0)
    this.#state.dma_addr = 0n
  }

  describe(): string {
    return `entry=0x${this.#state.cur_entry.toString(16)} offset=${this.#state.cur_offset}`
  }

  /** Which files there are: the board's, and ACPI's once they have arrived. */
  #listFiles(): void {
    const listed: ListedFile[] = []
    this.#files.forEach(({ name, data = this.#acpiData(name) }, i) => {
      if (data) listed.push({ key: KEY.firstFile + i, name, data })
    })
    for (const { key, data } of listed) this.#items.set(key, data)
    this.#items.set(KEY.directory, directory(listed))
  }

  #acpiData(name: string): Uint8Array | undefined {
    const file = ACPI_FILES.find((f) => f.name === name)
    const block = this.#acpiBlocks.get(name)
    if (!file || !block || this.#state.table_mr_size === 0n) return undefined
    return block.bytes.subarray(0, Math.min(Number(this.#state[file.used]), block.sizeBytes))
  }

  /** Pages of a file that are still with the sender. What asked for it begins anew when they are here. */
  #demandItem(key: number): void {
    const block = this.#acpiBlocks.get(this.#files[key - KEY.firstFile]?.name ?? '')
    if (block) this.#ctx.machine.physical.memory.missing.demand(block.offset, block.sizeBytes)
  }

  #select(key: number): void {
    this.#state.cur_entry = key
    this.#state.cur_offset = 0
  }

  /** Takes up to `length` bytes of the selected item; beyond its end there are none. */
  #take(length: number): Uint8Array {
    const state = this.#state
    const item = this.#items.get(state.cur_entry) ?? new Uint8Array(0)
    const from = Math.min(state.cur_offset, item.length)
    const taken = item.subarray(from, from + length)
    state.cur_offset = from + taken.length
    return taken
  }

  #read(offset: number, bytes: number): bigint {
    if (offset === DATA) {
      this.#demandItem(this.#state.cur_entry)
      // Bytes arrive in memory order, zeros after the end.
      const taken = this.#take(bytes)
      return taken.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n)
    }
    if (offset >= DMA) {
      const registers = new DataView(new ArrayBuffer(16))
      registers.setBigUint64(0, DMA_SIGNATURE)
      const value = registers.getBigUint64(offset - DMA, true)
      return BigInt.asUintN(8 * bytes, value)
    }
    return 0n
  }

  #write(offset: number, bytes: number, littleEndian: bigint): void {
    const state = this.#state
    const value = swapped(littleEndian, bytes)
    if (offset === SELECTOR && bytes === 2) this.#select(Number(value))
    else if (offset === DMA && bytes === 8) this.#transfer(value)
    else if (offset === DMA && bytes === 4) state.dma_addr = value << 32n
    else if (offset === DMA + 4 && bytes === 4) this.#transfer((state.dma_addr & ~0xffff_ffffn) | value)
    else this.#ctx.log.guestError('fw_cfg: write that does nothing', { offset, bytes })
  }

  /** @param address of {control BE32, length BE32, address BE64} */
  #transfer(address: bigint): void {
    const state = this.#state
    const { dma } = this.#ctx
    const at = Number(address)
    const command = new DataView(new ArrayBuffer(16))
    const answer = (control: number): void => {
      command.setUint32(0, control)
      dma.write(at, new Uint8Array(command.buffer, 0, 4))
    }
    const readable = Number.isSafeInteger(at) && dma.read(at, new Uint8Array(command.buffer))
    // The guest's store is made again when a page that this needs has arrived: from here on none may be missing.
    dma.demand?.(at, 16, true)
    if (readable && command.getUint32(0) & CONTROL.read) {
      dma.demand?.(Number(command.getBigUint64(8)), command.getUint32(4), true)
      this.#demandItem(command.getUint32(0) & CONTROL.select ? command.getUint16(0) : state.cur_entry)
    }
    state.dma_addr = 0n
    if (!readable) {
      answer(CONTROL.error)
      return
    }
    const control = command.getUint32(0)
    const length = command.getUint32(4)
    const target = Number(command.getBigUint64(8))
    if (control & CONTROL.select) this.#select(control >>> 16)
    let ok = true
    if (control & CONTROL.read) ok = this.#copyOut(target, length)
    else if (control & CONTROL.write)
      ok = false // nothing here is writable
    else if (control & CONTROL.skip) this.#take(length)
    answer(ok ? 0 : CONTROL.error)
  }

  /** Item bytes, then zeros. Stops at the first byte that has no place, so memory bounds what a guest can ask for. */
  #copyOut(target: number, length: number): boolean {
    for (let done = 0; done < length; ) {
      const size = Math.min(length - done, DMA_CHUNK_BYTES)
      const chunk = new Uint8Array(size)
      chunk.set(this.#take(size))
      if (!this.#ctx.dma.write(target + done, chunk)) return false
      done += size
    }
    return true
  }
}

interface ListedFile {
  readonly key: number
  readonly name: string
  readonly data: Uint8Array
}

function directory(files: readonly ListedFile[]): Uint8Array {
  const entryBytes = 4 + 2 + 2 + NAME_BYTES
  const bytes = new Uint8Array(4 + entryBytes * files.length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, files.length)
  files.forEach(({ key, name, data }, i) => {
    const at = 4 + entryBytes * i
    view.setUint32(at, data.length)
    view.setUint16(at + 4, key)
    bytes.set(new TextEncoder().encode(name).subarray(0, NAME_BYTES - 1), at + 8)
  })
  return bytes
}

/** What a little-endian store of a big-endian register means. */
function swapped(value: bigint, bytes: number): bigint {
  let result = 0n
  for (let i = 0; i < bytes; i++) result = (result << 8n) | ((value >> BigInt(8 * i)) & 0xffn)
  return result
}
