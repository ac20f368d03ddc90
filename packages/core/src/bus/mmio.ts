/**
 * A device's registers. Offsets count from the start of the region, values are unsigned.
 * A region without read64/write64 sees a 64-bit access as two 32-bit ones, low half first.
 */
export interface MmioRegion {
  /** Access sizes that exist; any other is an access fault. Default: all. */
  readonly sizes?: readonly (1 | 2 | 4 | 8)[]
  read(offset: number, bytes: 1 | 2 | 4): number
  write(offset: number, bytes: 1 | 2 | 4, value: number): void
  read64?(offset: number): bigint
  write64?(offset: number, value: bigint): void
}

/** A wire. Setting the level it already has is allowed and does nothing. */
export interface IrqLine {
  set(level: boolean): void
}
