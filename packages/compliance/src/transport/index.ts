/**
 * For authors of transports and channels.
 *
 * ```ts
 * import { describe, it } from 'vitest'
 * import { transportCompliance } from '@ferryvm/compliance/transport'
 *
 * transportCompliance({ describe, it }, { create: () => carrierPigeon(), address: () => 'coop-7' })
 * ```
 */
export type { TestRunner } from '../runner.ts'
export { type ChannelComplianceOptions, channelCompliance } from './channel-cases.ts'
export { faultCompliance } from './fault-cases.ts'
export { type Faults, faultyChannel, faultyTransport } from './faulty-channel.ts'
export { type TransportComplianceOptions, transportCompliance } from './transport-compliance.ts'
