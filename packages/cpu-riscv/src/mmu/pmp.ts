import type { HartState } from '../hart/hart-state.ts'
import { LAYOUT } from '../hart/layout.ts'

/** Spec: privileged ISA, "Physical Memory Protection". Permission bits as in pmpcfg. */
export const PMP = { R: 1, W: 2, X: 4, A_SHIFT: 3, L: 0x80 } as const
const A = { OFF: 0, TOR: 1, NA4: 2, NAPOT: 3 } as const
const ADDRESS_MASK = (1n << 54n) - 1n
const ALL = PMP.R | PMP.W | PMP.X

/** What {@link Pmp.page} says about a page whose parts differ: every access to it has to ask {@link Pmp.access}. */
export const PMP_MIXED = -1

/**
 * The 16 entries of a hart, as intervals with one answer each. Addresses are in units of 4 bytes (what pmpaddr counts,
 * and our granularity), so that all 56 bits fit a Number.
 */
export class Pmp {
  readonly #hart: HartState
  readonly #entries: number
  #starts: number[] = [0]
  #machine: number[] = [ALL]
  #others: number[] = [0]
  /** Which entry matched, -1 none: an access must not straddle two. */
  #owner: number[] = [-1]
  #last = 0

  constructor(hart: HartState, entries: number) {
    this.#hart = hart
    this.#entries = entries
  }

  readAddress(index: number): bigint {
    return this.#hart.get(LAYOUT.pmpaddr + index * 8)
  }

  /** A locked entry stays; so does the one below a locked TOR entry. @returns whether anything changed */
  writeAddress(index: number, value: bigint): boolean {
    if (this.#config(index) & PMP.L) return false
    const next = index + 1 < this.#entries ? this.#config(index + 1) : 0
    if (next & PMP.L && ((next >> PMP.A_SHIFT) & 3) === A.TOR) return false
    this.#hart.set(LAYOUT.pmpaddr + index * 8, value)
    this.update()
    return true
  }

  /** @param register 0 for pmpcfg0, 1 for pmpcfg2 */
  readConfig(register: number): bigint {
    return this.#hart.get(LAYOUT.pmpcfg + register * 8)
  }

  writeConfig(register: number, value: bigint): void {
    for (let i = 0; i < 8; i++) {
      const index = register * 8 + i
      if (index >= this.#entries || this.#config(index) & PMP.L) continue
      const config = Number((value >> BigInt(8 * i)) & 0x9fn)
      // R = 0 with W = 1 is reserved: keep what was there.
      if ((config & (PMP.R | PMP.W)) === PMP.W) continue
      this.#hart.u8[LAYOUT.pmpcfg + index] = config
    }
    this.update()
  }

  /** After entries changed in any other way (reset, load). */
  update(): void {
    const ranges: { start: number; end: number; config: number; entry: number }[] = []
    const points = new Set([0])
    for (let i = 0; i < this.#entries; i++) {
      const config = this.#config(i)
      const mode = (config >> PMP.A_SHIFT) & 3
      if (mode === A.OFF) continue
      const raw = this.readAddress(i) & ADDRESS_MASK
      let start = Number(raw)
      let end: number
      if (mode === A.TOR) {
        end = start
        start = i === 0 ? 0 : Number(this.readAddress(i - 1) & ADDRESS_MASK)
      } else if (mode === A.NA4) {
        end = start + 1
      } else {
        let ones = 0
        while (ones < 54 && (raw >> BigInt(ones)) & 1n) ones++
        const sizeLog2 = ones + 1
        start = sizeLog2 > 53 ? 0 : Math.floor(start / 2 ** sizeLog2) * 2 ** sizeLog2
        end = start + 2 ** sizeLog2
      }
      if (end <= start) continue
      ranges.push({ start, end, config, entry: i })
      points.add(start).add(end)
    }
    this.#starts = [...points].sort((a, b) => a - b)
    const owners = this.#starts.map((at) => ranges.find((r) => at >= r.start && at < r.end))
    this.#owner = owners.map((r) => r?.entry ?? -1)
    this.#machine = owners.map((r) => (r && r.config & PMP.L ? r.config & ALL : ALL))
    this.#others = owners.map((r) => (r ? r.config & ALL : 0))
    this.#last = 0
  }

  /** Permissions that hold for the whole page, or {@link PMP_MIXED}. */
  page(ppn: number, machineMode: boolean): number {
    const at = this.#find(ppn * 1024)
    const next = this.#starts[at + 1]
    if (next !== undefined && next < ppn * 1024 + 1024) return PMP_MIXED
    return machineMode ? this.#machine[at] : this.#others[at]
  }

  /** Permissions for one access. */
  access(address: number, bytes: number, machineMode: boolean): number {
    const first = this.#find(Math.floor(address / 4))
    const last = this.#find(Math.floor((address + bytes - 1) / 4))
    if (this.#owner[first] !== this.#owner[last]) return 0
    return machineMode ? this.#machine[first] : this.#others[first]
  }

  #config(index: number): number {
    return this.#hart.u8[LAYOUT.pmpcfg + index]
  }

  #find(unit: number): number {
    const starts = this.#starts
    let at = this.#last
    if (unit < starts[at]) at = 0
    while (at + 1 < starts.length && unit >= starts[at + 1]) at++
    this.#last = at
    return at
  }
}
