import { DeviceConfigError } from '@ferryvm/core'
import type { MachineConfig } from './machine-config.ts'

/** Hands out addresses and interrupt lines to system-bus devices that a board did not place. */
export class PlatformBus {
  readonly #config: NonNullable<MachineConfig['platformBus']>
  #next: number
  #nextIrq = 0

  constructor(config: NonNullable<MachineConfig['platformBus']>) {
    this.#config = config
    this.#next = config.base
  }

  /** @throws DeviceConfigError the window is full */
  address(deviceId: string, sizeBytes: number): number {
    const size = Math.max(0x1000, 2 ** Math.ceil(Math.log2(sizeBytes)))
    const at = Math.ceil(this.#next / size) * size
    if (at + size > this.#config.base + this.#config.sizeBytes) {
      throw new DeviceConfigError(deviceId, `no room for ${sizeBytes} bytes on the platform bus`)
    }
    this.#next = at + size
    return at
  }

  /** Something was placed by hand inside the window: stay behind it. */
  occupied(at: number, sizeBytes: number): void {
    const { base, sizeBytes: window } = this.#config
    if (at >= base && at < base + window) this.#next = Math.max(this.#next, at + sizeBytes)
  }

  /** @throws DeviceConfigError all lines are in use */
  irq(deviceId: string): number {
    if (this.#nextIrq === this.#config.irqCount) {
      throw new DeviceConfigError(
        deviceId,
        `all ${this.#config.irqCount} interrupt lines of the platform bus are in use`,
      )
    }
    return this.#config.firstIrq + this.#nextIrq++
  }
}
