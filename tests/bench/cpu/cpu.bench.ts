/**
 * `pnpm bench cpu [options]`: the same Linux guest with the same programs on `emu` and on stock QEMU, one after the other on one
 * machine. Ratios are emu's speed relative to stock QEMU's: above 1, emu is faster. `--help` lists the options.
 */
import { writeFileSync } from 'node:fs'
import { scratchFolder } from '../../stock-qemu/stock-qemu.ts'
import type { Bench, Results } from './bench.ts'
import { buildGuestFiles } from './guest-files.ts'
import { type Emulator, GuestError, LinuxMachine, ours, stockQemu } from './linux-machine.ts'
import { measureProgram, medianMs, type ProgramSamples, ratios, summary } from './measure-programs.ts'
import { measureMigration } from './migration.ts'
import { HELP, OptionError, parseOptions } from './options.ts'
import { measurePeer } from './peer.ts'
import { measureParallel } from './smp.ts'
import { spread } from './statistics.ts'

export default async function cpuBench(report: (line: string) => void, args: readonly string[] = []): Promise<void> {
  let options: Bench['options'] | undefined
  try {
    options = parseOptions(args)
  } catch (error) {
    if (!(error instanceof OptionError)) throw error
    report(error.message)
    process.exitCode = 1
    return
  }
  if (!options) return report(HELP)
  const scratch = scratchFolder()
  try {
    const bench: Bench = {
      options,
      files: buildGuestFiles(scratch.path, options.coremark),
      folder: scratch.path,
      subjects: options.accels.length > 0 ? options.accels.map(ours) : [ours()],
      reference: stockQemu(options.qemu),
      report,
    }
    const results: Results = {}
    const { sections } = options
    if (sections.has('programs')) results.programs = await programs(bench)
    if (sections.has('boot')) results.boot = await boots(bench)
    if (sections.has('memory')) results.memory = await memory(bench)
    if (sections.has('smp')) results.smp = await measureParallel(bench)
    if (sections.has('migration')) results.migration = await measureMigration(bench)
    if (sections.has('peer')) results.peer = await measurePeer(bench)
    if (options.json) writeFileSync(options.json, `${JSON.stringify(results, undefined, 2)}\n`)
  } catch (error) {
    if (!(error instanceof GuestError)) throw error
    report(`FAILED: ${error.message}`)
    process.exitCode = 1
  } finally {
    scratch.remove()
  }
}

async function programs({ options, files, folder, subjects, reference, report }: Bench): Promise<Results> {
  await using machines = new AsyncDisposableStack()
  const boot = async (emulator: Emulator) =>
    machines.use(await LinuxMachine.boot(emulator, files, folder, { ramMiB: options.ramMiB }))
  const stock = await boot(reference)
  const mine: LinuxMachine[] = []
  for (const subject of subjects) mine.push(await boot(subject))
  const samples: ProgramSamples[] = []
  for (const program of options.programs) {
    const measured = await measureProgram([...mine, stock], program, options)
    samples.push(measured)
    for (const machine of mine) report(programLine(measured, machine, stock, mine.length > 1))
  }
  for (const machine of mine) for (const line of summary(samples, machine, stock)) report(line)
  for (const machine of [...mine, stock]) report(await machine.checkClock())
  return Object.fromEntries(
    samples.map(({ program, runs }) => [
      program.name,
      Object.fromEntries([...runs].map(([machine, times]) => [machine.name, times])),
    ]),
  )
}

function programLine(samples: ProgramSamples, machine: LinuxMachine, stock: LinuxMachine, named: boolean): string {
  const { median, least, most, first, cpu } = ratios(samples, machine, stock)
  const ms = (m: LinuxMachine) => medianMs(samples.runs.get(m)!).toFixed(0).padStart(6)
  return (
    `${named ? `${machine.name.padEnd(12)} ` : ''}${samples.program.name.padEnd(14)}` +
    `${median.toFixed(2).padStart(6)}x  (${least.toFixed(2)} to ${most.toFixed(2)}, first run ${first.toFixed(2)}, by CPU time ${cpu.toFixed(2)})  ` +
    `${ms(machine)} ms, stock QEMU ${ms(stock)} ms   ${samples.program.what}`
  )
}

/** From the start of the process to the shell's prompt, by the host's clock. */
async function boots({ options, files, folder, subjects, reference, report }: Bench): Promise<Results> {
  const seconds = new Map<Emulator, number[]>([reference, ...subjects].map((emulator) => [emulator, []]))
  for (let i = 0; i < options.repeat; i++) {
    for (const [emulator, times] of seconds) {
      await using machine = await LinuxMachine.boot(emulator, files, folder, { ramMiB: options.ramMiB })
      times.push(machine.bootSeconds)
    }
  }
  const theirs = seconds.get(reference)!
  for (const subject of subjects) {
    const mine = seconds.get(subject)!
    const { median, least, most } = spread(mine.map((s, i) => s / theirs[i]))
    report(
      `${subject.name}: boot to the prompt takes ${median.toFixed(2)} times as long as stock QEMU's ` +
        `(${least.toFixed(2)} to ${most.toFixed(2)}; ${spread(mine).median.toFixed(2)} s, stock QEMU ${spread(theirs).median.toFixed(2)} s)`,
    )
  }
  return Object.fromEntries([...seconds].map(([emulator, times]) => [emulator.name, times]))
}

/** The most a process had in memory when its guest had run every program and touched all its RAM, without that RAM. */
async function memory({ options, files, folder, subjects, reference, report }: Bench): Promise<Results> {
  const results: Results = {}
  for (const emulator of [...subjects, reference]) {
    await using machine = await LinuxMachine.boot(emulator, files, folder, { ramMiB: options.ramMiB })
    const afterBoot = machine.residentBytes.peak
    for (const program of options.programs)
      await measureProgram([machine], program, { repeat: 1, scale: Math.min(1, options.scale) })
    const available = /MemAvailable:\s+(\d+) kB/.exec(await machine.shell('cat /proc/meminfo'))
    const fill = Math.floor(Number(available![1]) / 1024) - 16
    await machine.run('fill', `bench fill ${fill}`)
    const peak = machine.residentBytes.peak
    const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(0)
    report(
      `${emulator.name}: peak memory ${mib(peak)} MiB = guest RAM ${options.ramMiB} MiB (${fill} MiB touched by a program at the ` +
        `end) + ${mib(peak - options.ramMiB * 2 ** 20)} MiB; at the prompt ${mib(afterBoot)} MiB`,
    )
    results[emulator.name] = { peak, afterBoot, ramBytes: options.ramMiB * 2 ** 20 }
  }
  return results
}
