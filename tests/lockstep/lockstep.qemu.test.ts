import { PROFILES, type ProfileName } from '@ferryvm/cpu-riscv'
import { afterAll, describe, expect, it } from 'vitest'
import { compareLogs, compareMemory, instructionCount, report } from './compare.ts'
import { CSR_RULES, HYPERVISOR_CSR_RULES } from './csrs.ts'
import { runInFerry } from './ferry.ts'
import { COMPARED_MEMORY, LOG, RAM_BASE, RAM_BYTES } from './layout.ts'
import { generateProgram, type LockstepProgram } from './program.ts'
import { findQemu72, findQemu100, qemuIsRequired, runInQemu, type StockQemu } from './qemu.ts'
import { RESTRICTED_ROWS } from './rows.ts'
import { disassemble, instructionTable } from './table.ts'

/**
 * Lockstep: the same generated program on stock QEMU and on our CPU, every register compared after every block.
 *
 * FERRY_LOCKSTEP_SEED    seeds instead of the fixed ones, separated by commas
 * FERRY_LOCKSTEP_BLOCKS  blocks for each seed (default 1200, about 300 thousand compared instructions; at most 14000)
 * FERRY_LOCKSTEP_COMPILED_BLOCKS  blocks of the seed that is compiled (default 300)
 * FERRY_QEMU, FERRY_QEMU_10  the binaries, when they are not where qemu.ts looks
 */
const BLOCKS = Number(process.env.FERRY_LOCKSTEP_BLOCKS ?? 1200)
/** Of the run in which everything is compiled. */
const COMPILED_BLOCKS = Number(process.env.FERRY_LOCKSTEP_COMPILED_BLOCKS ?? 300)
const PASSES = 8
const TIMEOUT_MS = 60_000 + BLOCKS * 50
const seeds = (defaults: readonly number[]): readonly number[] =>
  process.env.FERRY_LOCKSTEP_SEED?.split(',').map(Number) ?? defaults

const stock: {
  readonly profile: ProfileName
  readonly qemu: StockQemu | undefined
  readonly seeds: readonly number[]
}[] = [
  { profile: 'qemu-7.2', qemu: findQemu72(), seeds: seeds([1, 2, 3, 4]) },
  { profile: 'qemu-10.0', qemu: findQemu100(), seeds: seeds([101, 102, 103, 104]) },
]
afterAll(() => {
  for (const { qemu } of stock) qemu?.dispose()
})

const ranges = (program: LockstepProgram) => [{ address: LOG, bytes: program.logBytes }, ...COMPARED_MEMORY]

for (const { profile, qemu, seeds } of stock) {
  const release = profile.replace('qemu-', '')
  const generate = (seed: number, blocks = BLOCKS): LockstepProgram =>
    generateProgram({
      seed,
      blocks,
      passes: PASSES,
      table: instructionTable(PROFILES[profile]),
      csrs: [...CSR_RULES, ...CSR_RULES, ...HYPERVISOR_CSR_RULES],
    })

  describe(`lockstep with stock QEMU ${release}`, () => {
    if (!qemu) {
      const why = `stock QEMU ${release} is not here (see qemu.ts)`
      if (qemuIsRequired()) it('needs it', () => expect.unreachable(why))
      else it.skip(why, () => {})
      return
    }

    it.each(seeds)(
      'seed %i: every register, every trap and the memory agree',
      { timeout: 2 * TIMEOUT_MS },
      async (seed) => {
        const program = generate(seed)
        const theirs = await runInQemu(qemu, program.image, RAM_BYTES, ranges(program), TIMEOUT_MS)
        const ours = await runInFerry(profile, program.image, RAM_BYTES, ranges(program), TIMEOUT_MS)
        const mismatches = compareLogs(program, theirs[0]!, ours.dumps[0]!)
        expect(
          mismatches
            .slice(0, 5)
            .map((m) => report(program, m, disassemble))
            .join('\n\n'),
        ).toBe('')
        expect(compareMemory(COMPARED_MEMORY, theirs.slice(1), ours.dumps.slice(1))).toEqual([])
      },
    )

    // A threshold of 1 compiles every block before it runs at all.
    it(`seed ${seeds[0]}, compiled: the same`, { timeout: 4 * TIMEOUT_MS }, async () => {
      const program = generate(seeds[0], Math.min(BLOCKS, COMPILED_BLOCKS))
      const theirs = await runInQemu(qemu, program.image, RAM_BYTES, ranges(program), TIMEOUT_MS)
      const compiled = { accel: 'jit', compileThreshold: 1 } as const
      const ours = await runInFerry(profile, program.image, RAM_BYTES, ranges(program), 3 * TIMEOUT_MS, compiled)
      const mismatches = compareLogs(program, theirs[0]!, ours.dumps[0]!)
      expect(
        mismatches
          .slice(0, 5)
          .map((m) => report(program, m, disassemble))
          .join('\n\n'),
      ).toBe('')
      expect(compareMemory(COMPARED_MEMORY, theirs.slice(1), ours.dumps.slice(1))).toEqual([])
      expect(ours.counters.regions).toBeGreaterThan(program.blocks.length)
      expect(ours.counters.regionsFailed).toBe(0)
    })

    it('compares a million instructions and every row of the table', () => {
      const programs = seeds.map((seed) => generate(seed))
      const total = programs.reduce((sum, program) => sum + instructionCount(program), 0)
      if (!process.env.FERRY_LOCKSTEP_SEED && !process.env.FERRY_LOCKSTEP_BLOCKS) {
        expect(total).toBeGreaterThan(1_000_000)
      }
      const seen = new Map<string, number>()
      for (const { blocks } of programs) {
        for (const { insns } of blocks) for (const { name } of insns) seen.set(name, (seen.get(name) ?? 0) + 1)
      }
      const table = instructionTable(PROFILES[profile])
      const missing = [...table.rows, ...table.compressed]
        .map((r) => r.name)
        .filter((name) => (seen.get(name) ?? 0) < 3)
      expect(missing.filter((name) => RESTRICTED_ROWS[name]?.where !== 'never')).toEqual([])
    })

    it('notices when one instruction does something else', { timeout: 2 * TIMEOUT_MS }, async () => {
      // Our CPU gets an image in which every fmax.d is an fmin.d, as if the row's semantics were wrong.
      const program = generate(7, 300)
      const image = program.image.slice()
      const view = new DataView(image.buffer)
      const altered = new Set<number>()
      for (const { index, insns } of program.blocks) {
        for (const { name, address, bits } of insns) {
          if (name !== 'fmax.d') continue
          view.setUint32(address - RAM_BASE, bits & ~0x1000, true)
          altered.add(index)
        }
      }
      const theirs = await runInQemu(qemu, program.image, RAM_BYTES, ranges(program), TIMEOUT_MS)
      const ours = await runInFerry(profile, image, RAM_BYTES, ranges(program), TIMEOUT_MS)
      const mismatches = compareLogs(program, theirs[0]!, ours.dumps[0]!)
      expect(altered.size).toBeGreaterThan(5)
      expect(mismatches.length).toBeGreaterThan(5)
      expect(mismatches.filter(({ block }) => !altered.has(block))).toEqual([])
      expect(report(program, mismatches[0]!, disassemble)).toContain('fmax.d')
    })
  })
}
