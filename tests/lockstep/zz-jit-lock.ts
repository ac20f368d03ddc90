import { PROFILES } from '@ferryvm/cpu-riscv'
import { compareLogs, compareMemory, report } from '/work/wt-jit/tests/lockstep/compare.ts'
import { CSR_RULES, HYPERVISOR_CSR_RULES } from '/work/wt-jit/tests/lockstep/csrs.ts'
import { runInFerry } from '/work/wt-jit/tests/lockstep/ferry.ts'
import { COMPARED_MEMORY, LOG, RAM_BYTES } from '/work/wt-jit/tests/lockstep/layout.ts'
import { generateProgram } from '/work/wt-jit/tests/lockstep/program.ts'
import { disassemble, instructionTable } from '/work/wt-jit/tests/lockstep/table.ts'

const [profile, seed, blocks, threshold] = [
  process.argv[2] as 'qemu-7.2',
  +process.argv[3]!,
  +process.argv[4]!,
  +process.argv[5]!,
]
const program = generateProgram({
  seed,
  blocks,
  passes: 8,
  table: instructionTable(PROFILES[profile]),
  csrs: [...CSR_RULES, ...CSR_RULES, ...HYPERVISOR_CSR_RULES],
})
const ranges = [{ address: LOG, bytes: program.logBytes }, ...COMPARED_MEMORY]
const t0 = performance.now()
const a = await runInFerry(profile, program.image, RAM_BYTES, ranges, 100000)
const t1 = performance.now()
const b = await runInFerry(profile, program.image, RAM_BYTES, ranges, 100000, {
  accel: 'jit',
  compileThreshold: threshold,
})
const t2 = performance.now()
const m = compareLogs(program, a.dumps[0]!, b.dumps[0]!)
console.log(
  m
    .slice(0, 3)
    .map((x) => report(program, x, disassemble))
    .join('\n\n'),
)
console.log(compareMemory(COMPARED_MEMORY, a.dumps.slice(1), b.dumps.slice(1)))
console.log(m.length, 'instret', a.instructions, b.instructions, 'ms', t1 - t0, t2 - t1, JSON.stringify(b.counters))
