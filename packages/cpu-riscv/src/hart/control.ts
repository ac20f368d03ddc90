import type { RamMapping, RamMode } from '@ferryvm/core'

/**
 * What all harts of a CPU share with the device thread, besides guest memory: one page. Byte offsets from its base.
 */
const CONTROL = { doorbell32: 0, mappingCount32: 4, timeDelta: 8, mappings: 64 } as const
const MAPPING_BYTES = 32
const MAX_MAPPINGS = 100
export const CONTROL_BYTES = CONTROL.mappings + MAX_MAPPINGS * MAPPING_BYTES

const MODES: readonly RamMode[] = ['ram', 'rom', 'romd', 'io']
/** Numbers of {@link RamMode} as harts see them. */
export const MODE = { ram: 0, rom: 1, romd: 2 } as const

/** Guest-physical pages [firstPpn, endPpn) lie at byte `mem` of guest memory. */
export interface PlainRange {
  readonly firstPpn: number
  readonly endPpn: number
  readonly mem: number
  readonly mode: number
}

export class ControlBlock {
  readonly #base: number
  readonly #buffer: SharedArrayBuffer
  readonly #i32: Int32Array<SharedArrayBuffer>
  readonly #delta: BigInt64Array<SharedArrayBuffer>

  constructor(buffer: SharedArrayBuffer, base: number) {
    this.#base = base
    this.#buffer = buffer
    this.#i32 = new Int32Array(buffer, base, 16)
    this.#delta = new BigInt64Array(buffer, base + CONTROL.timeDelta, 1)
  }

  /** Index 0 counts MMIO requests; device thread and harts wait and notify on it. */
  get doorbell(): Int32Array<SharedArrayBuffer> {
    return this.#i32
  }

  get timeDelta(): bigint {
    return Atomics.load(this.#delta, 0)
  }

  set timeDelta(value: bigint) {
    Atomics.store(this.#delta, 0, value)
  }

  /** Device thread, harts parked or about to be told. Ranges that are not whole pages lose their ragged ends. */
  setMappings(mappings: readonly RamMapping[]): void {
    const plain = mappings.filter((m) => m.mode !== 'io')
    if (plain.length > MAX_MAPPINGS) throw new RangeError(`${plain.length} RAM mappings; at most ${MAX_MAPPINGS}`)
    plain.forEach((m, i) => {
      const view = new DataView(this.#buffer, this.#base + CONTROL.mappings + i * MAPPING_BYTES, MAPPING_BYTES)
      view.setFloat64(0, Math.ceil(m.base / 4096))
      view.setFloat64(8, Math.floor((m.base + m.sizeBytes) / 4096))
      view.setUint32(16, m.block.offset)
      view.setUint32(20, MODES.indexOf(m.mode))
    })
    Atomics.store(this.#i32, CONTROL.mappingCount32 >> 2, plain.length)
  }

  mappings(): PlainRange[] {
    const ranges: PlainRange[] = []
    for (let i = 0; i < Atomics.load(this.#i32, CONTROL.mappingCount32 >> 2); i++) {
      const view = new DataView(this.#buffer, this.#base + CONTROL.mappings + i * MAPPING_BYTES, MAPPING_BYTES)
      ranges.push({
        firstPpn: view.getFloat64(0),
        endPpn: view.getFloat64(8),
        mem: view.getUint32(16),
        mode: view.getUint32(20),
      })
    }
    // The largest first: that is DRAM, and lookups are linear.
    return ranges.sort((a, b) => b.endPpn - b.firstPpn - (a.endPpn - a.firstPpn))
  }
}
