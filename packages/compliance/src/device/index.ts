/**
 * For authors of devices.
 *
 * ```ts
 * import { describe, it } from 'vitest'
 * import { deviceCompliance } from '@ferryvm/compliance/device'
 * import { acmeRng } from './acme-rng.js'
 *
 * deviceCompliance({ describe, it }, {
 *   create: () => acmeRng({ seed: 7 }),
 *   mutate: (host) => host.write32(0x00, 1),
 *   observe: (host) => host.read32(0x00),
 *   streams: new URL('./__fixtures__/', import.meta.url),
 * })
 * ```
 */
export type { TestRunner } from '../runner.ts'
export type { GoldenStream, GoldenStreams } from '../vmstate/golden-streams.ts'
export { type DeviceComplianceOptions, deviceCompliance } from './device-compliance.ts'
export { DeviceHost, type HostOptions, MEMORY_BASE, type RegisteredVmstate } from './device-host.ts'
