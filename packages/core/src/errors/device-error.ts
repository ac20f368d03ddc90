import { FerryError } from './ferry-error.ts'

/** A device, its options or its place in the machine are wrong; nothing has started. */
export class DeviceConfigError extends FerryError {
  readonly code = 'FERRY_DEVICE_CONFIG'
  readonly device: string
  constructor(device: string, message: string, options?: ErrorOptions) {
    super(`${device}: ${message}`, options)
    this.device = device
  }
}

/** Code of a device threw; says whose and where. Wrapped once. */
export class DeviceHookError extends FerryError {
  readonly code = 'FERRY_DEVICE_HOOK'
  readonly device: string
  readonly hook: string
  constructor(device: string, hook: string, cause: unknown) {
    super(`${device}: ${hook} failed: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    this.device = device
    this.hook = hook
  }
}
