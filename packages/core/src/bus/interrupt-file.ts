/** Interrupt identities that a file can have, 0 (which is none) included. */
export interface InterruptFileState {
  eidelivery: number
  eithreshold: number
  /** By identity, 256 of them: bit 0 pending, bit 1 enabled. */
  eistate: Uint32Array
}

/**
 * Where messages become interrupts of a hart, as the device sees it that takes the messages: an IMSIC. The hart reads and
 * changes the rest of the file by itself. Spec: RISC-V AIA, chapter "Incoming MSI Controller (IMSIC)".
 */
export interface InterruptFile {
  /** @param identity 1 to 255 */
  setPending(identity: number): void
  /** Harts must be paused, for this and what follows. */
  reset(): void
  save(into: InterruptFileState): void
  load(from: InterruptFileState): void
}
