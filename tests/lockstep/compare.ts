/** Compares two logs record by record and says where they part. */
import { MAX_TRAPS, RECORD, RECORD_BYTES, WINDOW_WORDS } from './layout.ts'
import type { LockstepProgram } from './program.ts'
import type { MemoryRange } from './qemu.ts'

export interface Mismatch {
  readonly block: number
  readonly pass: number
  /** `name: theirs, ours` */
  readonly differences: readonly string[]
}

const wordNames: string[] = []
for (let x = 1; x < 32; x++) wordNames.push(`x${x}`)
for (let f = 0; f < 32; f++) wordNames.push(`f${f}`)
wordNames.push('fcsr', 'mstatus', 'traps', 'trap hash', 'block entry', 'page table entries')
for (let i = 0; i < WINDOW_WORDS; i++) wordNames.push(`memory at window${i < 8 ? '' : '+'}${8 * i - 4 * WINDOW_WORDS}`)
for (let t = 0; t < MAX_TRAPS; t++) wordNames.push(...['cause', 'epc', 'tval', 'status'].map((w) => `trap ${t} ${w}`))

/** Two records of the same block and pass. Memory differences carry over to later blocks; registers never do. */
export function compareLogs(program: LockstepProgram, theirs: Uint8Array, ours: Uint8Array, limit = 20): Mismatch[] {
  const mismatches: Mismatch[] = []
  const a = new DataView(theirs.buffer, theirs.byteOffset, program.logBytes)
  const b = new DataView(ours.buffer, ours.byteOffset, program.logBytes)
  for (let record = 0; record < program.records && mismatches.length < limit; record++) {
    const base = record * RECORD_BYTES
    const differences: string[] = []
    for (let w = 0; w < RECORD.words; w++) {
      const x = a.getBigUint64(base + 8 * w, true)
      const y = b.getBigUint64(base + 8 * w, true)
      if (x !== y) differences.push(`${wordNames[w]}: QEMU ${x.toString(16)}, ours ${y.toString(16)}`)
    }
    if (differences.length > 0) {
      mismatches.push({
        block: record % program.blocks.length,
        pass: Math.floor(record / program.blocks.length),
        differences,
      })
    }
  }
  return mismatches
}

/** @returns the addresses of the first few 64-bit words that differ, with both values */
export function compareMemory(
  ranges: readonly MemoryRange[],
  theirs: readonly Uint8Array[],
  ours: readonly Uint8Array[],
): string[] {
  const differences: string[] = []
  for (const [n, { address, bytes }] of ranges.entries()) {
    const a = new DataView(theirs[n]!.buffer, theirs[n]!.byteOffset, bytes)
    const b = new DataView(ours[n]!.buffer, ours[n]!.byteOffset, bytes)
    for (let at = 0; at < bytes && differences.length < 20; at += 8) {
      const [x, y] = [a.getBigUint64(at, true), b.getBigUint64(at, true)]
      if (x !== y) differences.push(`${(address + at).toString(16)}: QEMU ${x.toString(16)}, ours ${y.toString(16)}`)
    }
  }
  return differences
}

/** @param disassemble text of one instruction; without it only the bits are shown */
export function report(
  program: LockstepProgram,
  mismatch: Mismatch,
  disassemble?: (bits: number, pc: bigint) => string,
): string {
  const block = program.blocks[mismatch.block]!
  const head =
    `seed ${program.seed}, block ${block.index}, pass ${mismatch.pass}: mode ${block.mode}, satp mode ${block.satpMode}, ` +
    `medeleg ${block.medeleg.toString(16)}, mstatus ${block.mstatus.toString(16)}`
  const code = block.insns.map(({ address, bytes, bits, name }) => {
    const text = disassemble?.(bits, BigInt(address)) ?? name
    return `  ${address.toString(16)}  ${bits
      .toString(16)
      .padStart(2 * bytes, '0')
      .padEnd(8)}  ${text}`
  })
  return [head, ...mismatch.differences.map((d) => `  ${d}`), ...code].join('\n')
}

/** Blocks that were reached and instructions in them, times passes: what one run compares. */
export const instructionCount = (program: LockstepProgram): number =>
  program.passes * program.blocks.reduce((sum, block) => sum + block.insns.length, 0)
