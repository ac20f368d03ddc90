/** RISC-V code for tests that run it on a whole board. */
import { encode } from '../../packages/cpu-riscv/src/isa/encode-testing.ts'

export { encode }
export const addi = (rd: number, rs1: number, imm: number): number => encode('addi', { rd, rs1, imm })

/** Instructions as bytes. */
export const machineCode = (insns: readonly number[]): Uint8Array => new Uint8Array(Uint32Array.from(insns).buffer)
