import { scratchFolder, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { type ProgramRun, startOurs, startStock } from './bench-guest.ts'

/** 20 to 170 million instructions each. Sources in `programs/`. */
const PROGRAMS: readonly (readonly [name: string, n: number, what: string])[] = [
  ['crc', 200_000, 'bits and branches'],
  ['list', 1200, 'pointers, calls through pointers'],
  ['qsort', 30, 'recursion, compares'],
  ['sieve', 60, 'byte stores with strides'],
  ['matrix', 80, '16-bit products'],
  ['dhry', 150_000, 'strings, records, calls'],
  ['state', 2500, 'state machine'],
  ['interp', 2500, 'bytecode, jump tables'],
  ['fib', 1, 'calls and returns'],
  ['nbody', 100_000, 'doubles, fused multiply-add'],
  ['nbody-unfused', 100_000, 'doubles'],
  ['stream', 120, 'copies and sums of 400 KB arrays'],
  ['chase', 1_000_000, 'random walk over 32 MiB'],
]
const REPETITIONS = 3

/** MIPS of the interpreter, and its time beside stock QEMU's for the same image. The least of three, the machines in turn. */
export default async function interpreterBench(report: (line: string) => void): Promise<void> {
  const folder = scratchFolder()
  const missing = stockQemuMissing()
  if (missing) report(`${missing}: our figures alone`)
  try {
    await using ours = await startOurs()
    await using stock = missing ? undefined : await startStock(folder.path)
    const ratios: number[] = []
    const speeds: number[] = []
    const wrong: string[] = []
    for (const [name, n, what] of PROGRAMS) {
      const mine: ProgramRun[] = []
      const theirs: ProgramRun[] = []
      for (let i = 0; i < REPETITIONS; i++) {
        mine.push(await ours.console.run(name, n))
        if (stock) theirs.push(await stock.console.run(name, n))
      }
      const seconds = least(mine)
      const instructions = mine.at(-1)!.instructions
      const mips = instructions / seconds / 1e6
      speeds.push(mips)
      let line = `${name.padEnd(14)} ${mips.toFixed(0).padStart(5)} MIPS (${(seconds * 1000).toFixed(0)} ms`
      if (theirs.length > 0) {
        const stockSeconds = least(theirs)
        ratios.push(stockSeconds / seconds)
        line +=
          `; stock QEMU ${(instructions / stockSeconds / 1e6).toFixed(0)} MIPS, ${(stockSeconds * 1000).toFixed(0)} ms)` +
          `  ratio ${(stockSeconds / seconds).toFixed(3)}`
      } else line += ')'
      report(`${line}  ${what}`)
      const checksums = new Set([...mine, ...theirs].map((run) => run.checksum))
      if (checksums.size !== 1) wrong.push(`${name}: checksums ${[...checksums].join(', ')}`)
    }
    report(`geometric mean: ${geometricMean(speeds).toFixed(0)} MIPS`)
    if (ratios.length > 0) report(`geometric mean of speed relative to stock QEMU: ${geometricMean(ratios).toFixed(3)}`)
    if (wrong.length > 0) throw new Error(`different results: ${wrong.join('; ')}`)
  } finally {
    folder.remove()
  }
}

const least = (runs: readonly ProgramRun[]) => Math.min(...runs.map((run) => run.seconds))
const geometricMean = (values: readonly number[]) =>
  Math.exp(values.reduce((sum, v) => sum + Math.log(v), 0) / values.length)
