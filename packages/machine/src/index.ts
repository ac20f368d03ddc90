/** Builds a machine from a CPU, buses and devices: `await createMachine({ name, cpu, ram, devices })`. */
export { createMachine } from './create-machine.ts'
export type { BootImage, MachineConfig, RamConfig } from './machine-config.ts'
export { parseProps } from './parse-props.ts'
