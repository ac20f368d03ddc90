import type { MmioRegion } from '@ferryvm/core'

export interface WindowEntry {
  /** PCI address. */
  base: number
  end: number
  readonly region: MmioRegion
}

/**
 * A range of physical addresses behind which PCI addresses lie (ports, or memory). What no BAR claims reads all ones.
 * BARs that overlap: the one that was mapped first answers.
 */
export class AddressWindow implements MmioRegion {
  /** PCI address of offset 0. */
  readonly #base: number
  readonly #entries: WindowEntry[]

  /** @param entries shared by all windows of one space, in the order in which they were mapped */
  constructor(base: number, entries: WindowEntry[]) {
    this.#base = base
    this.#entries = entries
  }

  read(offset: number, bytes: 1 | 2 | 4): number {
    const address = this.#base + offset
    const entry = this.#find(address, bytes)
    const sizes = entry?.region.sizes
    return entry && (!sizes || sizes.includes(bytes)) ? entry.region.read(address - entry.base, bytes) : allOnes(bytes)
  }

  write(offset: number, bytes: 1 | 2 | 4, value: number): void {
    const address = this.#base + offset
    const entry = this.#find(address, bytes)
    const sizes = entry?.region.sizes
    if (entry && (!sizes || sizes.includes(bytes))) entry.region.write(address - entry.base, bytes, value)
  }

  read64(offset: number): bigint {
    const address = this.#base + offset
    const entry = this.#find(address, 8)
    if (entry?.region.read64) return entry.region.read64(address - entry.base)
    return BigInt(this.read(offset, 4) >>> 0) | (BigInt(this.read(offset + 4, 4) >>> 0) << 32n)
  }

  write64(offset: number, value: bigint): void {
    const address = this.#base + offset
    const entry = this.#find(address, 8)
    if (entry?.region.write64) {
      entry.region.write64(address - entry.base, value)
      return
    }
    this.write(offset, 4, Number(value & 0xffff_ffffn))
    this.write(offset + 4, 4, Number(value >> 32n))
  }

  #find(address: number, size: number): WindowEntry | undefined {
    return this.#entries.find((e) => address >= e.base && address + size <= e.end)
  }
}

const allOnes = (bytes: 1 | 2 | 4): number => (bytes === 4 ? 0xffff_ffff : bytes === 2 ? 0xffff : 0xff)
