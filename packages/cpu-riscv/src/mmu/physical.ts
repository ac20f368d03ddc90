import type { PlainRange } from '../hart/control.ts'
import { MODE } from '../hart/control.ts'

/** Guest-physical page numbers to places in guest memory. Everything that is not found here is MMIO or nothing. */
export class Physical {
  #ranges: readonly PlainRange[] = []
  #last: PlainRange = { firstPpn: 0, endPpn: 0, mem: 0, mode: 0 }
  /** MODE of the last page found. */
  mode: number = MODE.ram

  setRanges(ranges: readonly PlainRange[]): void {
    this.#ranges = ranges
    this.#last = ranges[0] ?? { firstPpn: 0, endPpn: 0, mem: 0, mode: 0 }
  }

  /** @returns byte offset of that page in guest memory, or -1; sets {@link mode} */
  find(ppn: number): number {
    const last = this.#last
    if (ppn >= last.firstPpn && ppn < last.endPpn) {
      this.mode = last.mode
      return last.mem + (ppn - last.firstPpn) * 4096
    }
    for (const range of this.#ranges) {
      if (ppn >= range.firstPpn && ppn < range.endPpn) {
        this.#last = range
        this.mode = range.mode
        return range.mem + (ppn - range.firstPpn) * 4096
      }
    }
    return -1
  }
}
