/** For authors of vmstate tables; devices get it through `@ferryvm/compliance/device` too. */
export type { TestRunner } from '../runner.ts'
export type { GoldenStream, GoldenStreams } from './golden-streams.ts'
export { type VmstateComplianceOptions, vmstateCompliance } from './vmstate-compliance.ts'
