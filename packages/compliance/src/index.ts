/**
 * The kit that device, vmstate, transport and CPU authors run against their work, with the test runner they have. Each kit is
 * an entry of its own: `@ferryvm/compliance/device`, `/vmstate`, `/transport`, `/layer` and
 * `/cpu`.
 */
export { cpuCompliance } from './cpu/index.ts'
export { deviceCompliance } from './device/index.ts'
export { layerCompliance } from './layer/index.ts'
export { ComplianceFailure, type TestRunner } from './runner.ts'
export { channelCompliance, faultyChannel, transportCompliance } from './transport/index.ts'
export { vmstateCompliance } from './vmstate/index.ts'
