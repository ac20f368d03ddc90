/** What a migration costs the guest while it runs: dirty logging, and a sender on another core. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Bench, Results } from './bench.ts'
import { GuestError, LinuxMachine, type ProgramTime } from './linux-machine.ts'
import { commandLine, type GuestProgram, PROGRAMS } from './programs.ts'
import { spread } from './statistics.ts'

/** Stores over and over, one per page: what dirty logging has most to do with. */
const EXTRA: readonly GuestProgram[] = [
  { name: 'store', group: 'compute', n: 100, what: '8-byte stores over 8 MiB' },
  { name: 'touch', group: 'compute', n: 6000, what: 'one store per page of 8 MiB' },
]
const DEFAULT = ['mix', 'sieve', 'interp', 'stream', 'faults']
/** Slow enough that the migration outlasts the program, whatever that writes. */
const BANDWIDTH = 8 << 20

/**
 * Speed with a migration under way relative to the speed without one, of the same guest, in turn. Its first pass is over
 * (`dirty-sync-count` above 1), so that what is measured is the log being taken again and again.
 */
export async function measureMigration({
  options,
  files,
  folder,
  subjects,
  reference,
  report,
}: Bench): Promise<Results> {
  const all = options.programs.length === PROGRAMS.length
  const programs = [...options.programs.filter((p) => !all || DEFAULT.includes(p.name)), ...EXTRA]
  const results: Results = {}
  for (const emulator of [...subjects, reference]) {
    await using machine = await LinuxMachine.boot(emulator, files, folder, { ramMiB: options.ramMiB })
    await machine.qmp('migrate-set-parameters', { 'max-bandwidth': BANDWIDTH, 'downtime-limit': 1 })
    const rows: Record<string, unknown> = {}
    for (const program of programs) {
      const n = Math.max(1, Math.round(program.n * options.scale))
      const alone: ProgramTime[] = []
      const moving: ProgramTime[] = []
      const checksums = new Set<number>()
      const run = async (to: ProgramTime[]) => {
        const time = await machine.run(program.name, commandLine(program, n))
        checksums.add(time.checksum)
        to.push(time)
      }
      await run([])
      for (let i = 0; i < options.repeat; i++) {
        await run(alone)
        await machine.qmp('migrate', { uri: 'exec:cat >/dev/null' })
        await until(machine, 'active')
        await run(moving)
        await until(machine, 'active')
        await machine.qmp('migrate_cancel')
        await until(machine, 'cancelled')
      }
      if (checksums.size !== 1)
        throw new GuestError(`${emulator.name}, ${program.name}: different results: ${[...checksums].join(', ')}`)
      const kept = spread(alone.map((run, i) => run.guestSeconds / moving[i].guestSeconds))
      const byCpu = spread(alone.map((run, i) => run.hartSeconds / moving[i].hartSeconds)).median
      report(
        `${emulator.name}: ${program.name.padEnd(14)} keeps ${kept.median.toFixed(2)} of its speed while the guest migrates ` +
          `(${kept.least.toFixed(2)} to ${kept.most.toFixed(2)}; by the hart's CPU time ${byCpu.toFixed(2)})  ${program.what}`,
      )
      rows[program.name] = { alone, moving }
    }
    results[emulator.name] = rows
  }
  return results
}

async function until(machine: LinuxMachine, wanted: string): Promise<void> {
  const deadline = performance.now() + 30_000
  for (;;) {
    const { status } = await machine.qmp('query-migrate')
    if (status === wanted) return
    if (status === 'completed' || status === 'failed' || performance.now() > deadline)
      throw new GuestError(`${machine.name}: the migration is ${status}, not ${wanted}`)
    await sleep(10)
  }
}
