/**
 * Firmware configuration: a table of items that firmware and kernels read by key, byte by byte or by DMA.
 * Spec: virt-machine.md section 6.7; virt-vmstate.md section 13. Contents are the receiver's own and do not migrate.
 */
import {
  type Device,
  DeviceConfigError,
  type DeviceContext,
  defineDevice,
  defineVmstate,
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
        /** Sizes of the ACPI blobs, which stock 10.0 has and we have not: kept, and sent back as they came. */
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

export interface FwCfgFile {
  readonly name: string
  readonly data: Uint8Array
}

interface FwCfgProps {
  readonly harts: number
  readonly files: readonly FwCfgFile[]
  readonly items: ReadonlyMap<number, Uint8Array>
  readonly returnsAcpi: boolean
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
          data: bytesProp,
        }),
      )
      .max(MAX_FILES)
      .default([]),
    /** More items by key: kernel 0x11, initrd 0x12, command line 0x15 ... */
    items: z.map(z.number().int().min(0).max(0x1f), bytesProp).default(new Map()),
    /** What arrived about ACPI tables leaves with the machine again. */
    returnsAcpi: z.boolean().default(true),
  }),
  migration: registersItself,
  realize: (ctx, props) => new FwCfg(ctx, props),
})

class FwCfg implements Device {
  readonly #ctx: DeviceContext<undefined>
  readonly #state = fwCfgVmstate.createState()
  readonly #items: Map<number, Uint8Array>

  constructor(ctx: DeviceContext<undefined>, { harts, files, items, returnsAcpi }: FwCfgProps) {
    this.#ctx = ctx
    const postLoad = (state: FwCfgState, version: number) => {
      fwCfgVmstate.postLoad?.(state, version)
      if (!returnsAcpi) state.table_mr_size = 0n
    }
    ctx.registerVmstate({ ...fwCfgVmstate, postLoad }, this.#state)
    const sorted = [...files].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
    const twice = sorted.find((file, i) => file.name === sorted[i + 1]?.name)
    if (twice) throw new DeviceConfigError(ctx.id, `two files are named '${twice.name}'`)
    this.#items = new Map([
      [KEY.signature, new TextEncoder().encode('QEMU')],
      [KEY.id, Uint8Array.of(ID, 0, 0, 0)],
      [KEY.cpus, Uint8Array.of(harts & 0xff, harts >> 8)],
      [KEY.directory, directory(sorted)],
      ...items,
      ...sorted.map(({ data }, i): [number, Uint8Array] => [KEY.firstFile + i, data]),
    ])
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

function directory(files: readonly FwCfgFile[]): Uint8Array {
  const entryBytes = 4 + 2 + 2 + NAME_BYTES
  const bytes = new Uint8Array(4 + entryBytes * files.length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, files.length)
  files.forEach(({ name, data }, i) => {
    const at = 4 + entryBytes * i
    view.setUint32(at, data.length)
    view.setUint16(at + 4, KEY.firstFile + i)
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
