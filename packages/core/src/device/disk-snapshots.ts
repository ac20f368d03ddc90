/** One snapshot inside a disk image. */
export interface DiskSnapshot {
  /** Unique in the image. */
  readonly id: string
  readonly name: string
  readonly dateSeconds: number
  readonly dateNanoseconds: number
  /** For how long the guest had run, ns. */
  readonly vmClockNs: bigint
  /** 0: of the disk alone. */
  readonly vmStateBytes: number
  /** Instructions that the guest had executed, where they were counted. */
  readonly icount?: bigint
}

export interface NewDiskSnapshot extends Omit<DiskSnapshot, 'id' | 'icount'> {
  /** Id of one that goes in the moment when this one is there. */
  readonly replaces?: string
}

/** An image that keeps earlier states of its disk, and of the machine that used it, inside itself. */
export interface DiskSnapshots {
  list(): readonly DiskSnapshot[]
  /** Of the state to be kept with the next {@link create}; positions in bytes, each written once. */
  writeVmState(position: number, from: Uint8Array): Promise<void>
  /** Forgets what was written. */
  discardVmState(): Promise<void>
  /** @returns reads at a position of that snapshot's VM state, bytes */
  openVmState(id: string): Promise<(position: number, into: Uint8Array) => Promise<void>>
  /** Rejects with nothing changed. */
  create(what: NewDiskSnapshot): Promise<DiskSnapshot>
  /** The disk becomes what it was then. */
  apply(id: string): Promise<void>
  delete(id: string): Promise<void>
}
