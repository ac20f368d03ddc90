/** For authors of channel layers (encryption, throttling, recording). */
export type { TestRunner } from '../runner.ts'
export { type LayerComplianceOptions, layerCompliance } from './layer-compliance.ts'
