import type { MmioRegion } from '../bus/mmio.ts'
import { DeviceConfigError } from '../errors/device-error.ts'
import type { AddressSpace } from './address-space.ts'
import type { GuestMemory, RamBlock } from './guest-memory.ts'

/**
 * Guest-physical memory that is plain bytes. `ram`: read and write. `rom`: reads are bytes, writes are dropped.
 * `romd`: reads are bytes, writes go to `writes` (a flash bank in array mode). `io`: both go to `writes` (the same bank
 * while it answers commands).
 */
export type RamMode = 'ram' | 'rom' | 'romd' | 'io'
export interface RamMapping {
  readonly base: number
  readonly sizeBytes: number
  readonly block: RamBlock
  readonly mode: RamMode
}
interface Entry {
  base: number
  end: number
  name: string
  ram?: { block: RamBlock; mode: RamMode }
  mmio?: MmioRegion
}

/** The machine's physical address map. Regions never overlap. CPUs read RAM mappings directly and ask here for the rest. */
export class PhysicalMap implements AddressSpace {
  readonly memory: GuestMemory
  readonly #entries: Entry[] = []
  #last: Entry | undefined
  #listeners: (() => void)[] = []

  constructor(memory: GuestMemory) {
    this.memory = memory
  }

  /**
   * @param writes takes the writes of `romd` and all accesses of `io`; offsets from `base`
   * @returns a handle that switches the mode while the machine runs
   * @throws DeviceConfigError it would overlap another region
   */
  addRam(base: number, block: RamBlock, mode: RamMode = 'ram', writes?: MmioRegion): { setMode(mode: RamMode): void } {
    const entry: Entry = { base, end: base + block.sizeBytes, name: block.idstr, ram: { block, mode }, mmio: writes }
    this.#insert(entry)
    this.#changed()
    return {
      setMode: (next) => {
        if (entry.ram!.mode === next) return
        entry.ram!.mode = next
        this.#changed()
      },
    }
  }

  /** @throws DeviceConfigError it would overlap another region */
  addMmio(base: number, sizeBytes: number, region: MmioRegion, name: string): void {
    this.#insert({ base, end: base + sizeBytes, name, mmio: region })
  }

  /** What a CPU may read (and, for `ram`, write) without asking. */
  ramMappings(): RamMapping[] {
    return this.#entries
      .filter((e) => e.ram && e.ram.mode !== 'io')
      .map((e) => ({ base: e.base, sizeBytes: e.end - e.base, block: e.ram!.block, mode: e.ram!.mode }))
  }

  /** The set or mode of RAM mappings changed: CPUs must drop what they cached of it. */
  onRamMappingsChanged(listener: () => void): void {
    this.#listeners.push(listener)
  }

  read(address: number, into: Uint8Array): boolean {
    for (let done = 0; done < into.length; ) {
      const entry = this.#find(address + done)
      if (!entry) return false
      const offset = address + done - entry.base
      const length = Math.min(into.length - done, entry.end - entry.base - offset)
      if (entry.ram && entry.ram.mode !== 'io') {
        this.memory.missing.demand(entry.ram.block.offset + offset, length)
        into.set(entry.ram.block.bytes.subarray(offset, offset + length), done)
        done += length
      } else {
        const size = accessSize(offset, length)
        const value = this.mmioRead(address + done, size)
        if (value === undefined) return false
        for (let i = 0; i < size; i++) into[done + i] = Number((value >> BigInt(8 * i)) & 0xffn)
        done += size
      }
    }
    return true
  }

  demand(address: number, bytes: number): void {
    if (this.memory.missing.count === 0) return
    for (let done = 0; done < bytes; ) {
      const entry = this.#find(address + done)
      if (!entry) return
      const offset = address + done - entry.base
      const length = Math.min(bytes - done, entry.end - entry.base - offset)
      if (entry.ram) this.memory.missing.demand(entry.ram.block.offset + offset, length)
      done += length
    }
  }

  write(address: number, from: Uint8Array): boolean {
    this.demand(address, from.length)
    for (let done = 0; done < from.length; ) {
      const entry = this.#find(address + done)
      if (!entry) return false
      const offset = address + done - entry.base
      const length = Math.min(from.length - done, entry.end - entry.base - offset)
      const mode = entry.ram?.mode
      if (mode === 'ram' || mode === 'rom') {
        if (mode === 'ram') {
          this.memory.willWrite(entry.ram!.block.offset + offset, length)
          entry.ram!.block.bytes.set(from.subarray(done, done + length), offset)
          this.memory.written(entry.ram!.block.offset + offset, length)
        }
        done += length
      } else {
        const size = accessSize(offset, length)
        let value = 0n
        for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(from[done + i]!)
        if (!this.mmioWrite(address + done, size, value)) return false
        done += size
      }
    }
    return true
  }

  /** One access of a CPU that did not read the mapping itself. `undefined`: nothing answers (a load access fault). */
  mmioRead(address: number, size: 1 | 2 | 4 | 8): bigint | undefined {
    const entry = this.#find(address)
    if (!entry || address + size > entry.end) return undefined
    const offset = address - entry.base
    if (entry.ram && entry.ram.mode !== 'io') {
      this.memory.missing.demand(entry.ram.block.offset + offset, size)
      const view = new DataView(entry.ram.block.bytes.buffer, entry.ram.block.offset + offset, size)
      return size === 8
        ? view.getBigUint64(0, true)
        : BigInt(size === 4 ? view.getUint32(0, true) : size === 2 ? view.getUint16(0, true) : view.getUint8(0))
    }
    const region = entry.mmio
    if (!region || (region.sizes && !region.sizes.includes(size))) return undefined
    if (size !== 8) return BigInt(region.read(offset, size) >>> 0)
    if (region.read64) return BigInt.asUintN(64, region.read64(offset))
    return BigInt(region.read(offset, 4) >>> 0) | (BigInt(region.read(offset + 4, 4) >>> 0) << 32n)
  }

  /** One access of a CPU that did not write the mapping itself. `false`: nothing answers (a store access fault). */
  mmioWrite(address: number, size: 1 | 2 | 4 | 8, value: bigint): boolean {
    const entry = this.#find(address)
    if (!entry || address + size > entry.end) return false
    if (entry.ram?.mode === 'rom') return true
    const offset = address - entry.base
    if (entry.ram?.mode === 'ram') {
      const { block } = entry.ram
      this.memory.missing.demand(block.offset + offset, size)
      this.memory.willWrite(block.offset + offset, size)
      for (let i = 0; i < size; i++) block.bytes[offset + i] = Number((value >> BigInt(8 * i)) & 0xffn)
      this.memory.written(block.offset + offset, size)
      return true
    }
    const region = entry.mmio
    if (!region || (region.sizes && !region.sizes.includes(size))) return false
    if (size !== 8) region.write(offset, size, Number(BigInt.asUintN(8 * size, value)))
    else if (region.write64) region.write64(offset, value)
    else {
      region.write(offset, 4, Number(BigInt.asUintN(32, value)))
      region.write(offset + 4, 4, Number(BigInt.asUintN(32, value >> 32n)))
    }
    return true
  }

  /** Guest-physical address of a block; 0: it is not mapped. */
  addressOf(block: RamBlock): number {
    return this.#entries.find(({ ram }) => ram?.block === block)?.base ?? 0
  }

  /** For `info mtree`. */
  describe(): { base: number; end: number; name: string; kind: string }[] {
    return this.#entries.map(({ base, end, name, ram }) => ({ base, end, name, kind: ram ? ram.mode : 'mmio' }))
  }

  #insert(entry: Entry): void {
    const at = this.#entries.findIndex((e) => e.base >= entry.base)
    const index = at < 0 ? this.#entries.length : at
    const before = this.#entries[index - 1]
    const after = this.#entries[index]
    const clash = before && before.end > entry.base ? before : after && after.base < entry.end ? after : undefined
    if (clash) {
      throw new DeviceConfigError(
        entry.name,
        `0x${entry.base.toString(16)} to 0x${entry.end.toString(16)} overlaps ${clash.name}`,
      )
    }
    this.#entries.splice(index, 0, entry)
    this.#last = undefined
  }

  #find(address: number): Entry | undefined {
    const last = this.#last
    if (last && address >= last.base && address < last.end) return last
    let low = 0
    let high = this.#entries.length - 1
    while (low <= high) {
      const middle = (low + high) >> 1
      const entry = this.#entries[middle]!
      if (address < entry.base) high = middle - 1
      else if (address >= entry.end) low = middle + 1
      else return (this.#last = entry)
    }
    return undefined
  }

  #changed(): void {
    for (const listener of this.#listeners) listener()
  }
}

/** The widest naturally aligned access at `offset` that does not exceed `length`. */
function accessSize(offset: number, length: number): 1 | 2 | 4 {
  if (offset % 4 === 0 && length >= 4) return 4
  return offset % 2 === 0 && length >= 2 ? 2 : 1
}
