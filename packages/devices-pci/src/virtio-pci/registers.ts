import type { VirtioBackend } from '@ferryvm/core'

/** What both register layouts of a virtio function share. */
export interface VirtioPciRegisters {
  readonly backend: VirtioBackend
  configVector: number
  /** MSI-X is on: the legacy layout then has two more registers. */
  readonly msixEnabled: boolean
  /** The vector, or "none" when it does not exist. */
  validVector(vector: number): number
  /** 0 resets the device. */
  writeStatus(status: number): void
  /** Reads interrupt status, clears it and lowers the line. */
  takeIsr(): number
  kick(queue: number): void
  /** The function's registers as after a device reset. */
  reset(): void
  guestError(message: string, value: number): void
}
