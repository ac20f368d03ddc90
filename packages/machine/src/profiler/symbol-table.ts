export interface GuestSymbol {
  readonly name: string
  /** The file that it is from. */
  readonly file: string
}

interface Entry extends GuestSymbol {
  readonly address: bigint
  /** Bytes; 0: up to the next one. */
  readonly size: bigint
}

/** Function names by address, from any number of files. */
export class SymbolTable {
  readonly #entries: Entry[] = []
  #sorted = true

  get size(): number {
    return this.#entries.length
  }

  add(address: bigint, name: string, file: string, size = 0n): void {
    this.#entries.push({ address, name, file, size })
    this.#sorted = false
  }

  /** The function that an address is in. */
  find(address: bigint): GuestSymbol | undefined {
    const entries = this.#entries
    if (!this.#sorted) {
      entries.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0))
      this.#sorted = true
    }
    let [low, high] = [0, entries.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if (entries[middle].address <= address) low = middle + 1
      else high = middle
    }
    const found = entries[low - 1]
    if (!found || address - found.address >= (found.size || UNKNOWN_SIZE)) return undefined
    return found
  }
}

/** No function is longer; what lies behind is another program's, or nobody's. */
const UNKNOWN_SIZE = 1n << 20n
