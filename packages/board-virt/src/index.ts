/**
 * The RISC-V `virt` board.
 *
 * ```ts
 * const machine = await createMachine(virtBoard({ kernel, serial }))
 * machine.start()
 * ```
 */

export { ACCELERATORS, type Accelerator, DEFAULT_ACCELERATOR } from '@ferryvm/cpu-riscv'
export { type BootFiles, type BootPlan, planBoot, RAM_BASE } from './boot-plan.ts'
export { type FileSource, type LoadableImage, loadImage } from './elf.ts'
export { VIRT_PROFILES, type VirtProfile, type VirtProfileFacts } from './profile.ts'
export { type VirtBoardOptions, virtBoard, virtDevices } from './virt-board.ts'
