/** Every program on every machine, the machines in turn: what else the host does meets all of them alike. */

import { GuestError, type LinuxMachine, type ProgramTime } from './linux-machine.ts'
import type { CpuBenchOptions } from './options.ts'
import { commandLine, type GuestProgram, preparation } from './programs.ts'
import { geometricMean, type Spread, spread } from './statistics.ts'

/** One program's runs, by machine, in order. */
export interface ProgramSamples {
  readonly program: GuestProgram
  readonly runs: ReadonlyMap<LinuxMachine, readonly ProgramTime[]>
}

/** @throws GuestError results that differ between machines or runs, or a clock that lies */
export async function measureProgram(
  machines: readonly LinuxMachine[],
  program: GuestProgram,
  { repeat, scale }: Pick<CpuBenchOptions, 'repeat' | 'scale'>,
): Promise<ProgramSamples> {
  const n = Math.max(1, Math.round(program.n * scale))
  const runs = new Map<LinuxMachine, ProgramTime[]>(machines.map((machine) => [machine, []]))
  const prepare = preparation(program, n)
  if (prepare) for (const machine of machines) await machine.shell(prepare)
  for (let i = 0; i < repeat; i++) {
    for (const machine of machines) runs.get(machine)!.push(await machine.run(program.name, commandLine(program, n)))
  }
  const checksums = [...runs].flatMap(([machine, times]) => times.map((t) => [machine.name, t.checksum] as const))
  if (new Set(checksums.map(([, checksum]) => checksum)).size !== 1)
    throw new GuestError(`${program.name}: different results: ${checksums.map((c) => c.join(' ')).join(', ')}`)
  return { program, runs }
}

/** Speed relative to a reference: of runs that followed each other. Above 1: faster. */
export interface Ratio extends Spread {
  /** Of the first runs, in which a machine may still learn the program. */
  readonly first: number
  /** By the CPU time of the whole process, which other load on the host leaves alone; the median. */
  readonly cpu: number
}

export function ratios({ runs }: ProgramSamples, machine: LinuxMachine, reference: LinuxMachine): Ratio {
  const mine = runs.get(machine)!
  const theirs = runs.get(reference)!
  const each = mine.map((run, i) => theirs[i].guestSeconds / run.guestSeconds)
  const cpu = spread(mine.map((run, i) => theirs[i].cpuSeconds / run.cpuSeconds)).median
  return { ...spread(each), first: each[0], cpu }
}

export const medianMs = (times: readonly ProgramTime[]): number =>
  spread(times.map((t) => t.guestSeconds)).median * 1000

/** Lines with the means over groups, and with the programs that miss the goals. */
export function summary(samples: readonly ProgramSamples[], machine: LinuxMachine, reference: LinuxMachine): string[] {
  const rows = samples.map((s) => ({ ...s.program, ...ratios(s, machine, reference) }))
  const lines: string[] = []
  for (const group of ['compute', 'system', 'all'] as const) {
    const members = rows.filter((row) => group === 'all' || row.group === group)
    if (members.length === 0) continue
    const mean = (value: (row: (typeof rows)[number]) => number) => geometricMean(members.map(value)).toFixed(2)
    lines.push(
      `${machine.name}: geometric mean of ${members.length} ${group === 'all' ? '' : `${group} `}programs ` +
        `${mean((r) => r.median)}x stock QEMU (${mean((r) => r.least)} to ${mean((r) => r.most)}; first runs ${mean((r) => r.first)}; by CPU time ${mean((r) => r.cpu)})`,
    )
  }
  const slow = rows.filter((row) => row.median < 0.8)
  if (slow.length > 0)
    lines.push(`${machine.name}: below 0.8x: ${slow.map((row) => `${row.name} ${row.median.toFixed(2)}`).join(', ')}`)
  return lines
}
