/**
 * The kit that device, vmstate and transport authors run against their work, with the test runner they have. Each kit is
 * an entry of its own: `@ferryvm/compliance/device`, `/vmstate`, `/transport` and `/layer`.
 */
export { deviceCompliance } from './device/index.ts'
export { layerCompliance } from './layer/index.ts'
export { ComplianceFailure, type TestRunner } from './runner.ts'
export { channelCompliance, faultyChannel, transportCompliance } from './transport/index.ts'
export { vmstateCompliance } from './vmstate/index.ts'
