/**
 * For authors of CPUs: what a machine, a monitor and a migration need of one. The kit brings memory and a board; the author brings
 * one program in the machine code of the CPU.
 */
export type { TestRunner } from '../runner.ts'
export {
  COUNTER_ADDRESS,
  type CpuComplianceOptions,
  type CpuPrograms,
  cpuCompliance,
  RAM_BASE,
} from './cpu-compliance.ts'
