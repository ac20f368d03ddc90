/** A load that needs no communication: copies of one program on one hart and on several. */
import type { Bench, Results } from './bench.ts'
import { GuestError, LinuxMachine } from './linux-machine.ts'
import { PROGRAMS } from './programs.ts'
import { spread } from './statistics.ts'

const PROGRAM = PROGRAMS.find((p) => p.name === 'mix')!

/**
 * How much faster N harts do N copies than one hart does them. Guests with one and with N harts take turns, and so do the
 * emulators: the second one says what this host allows.
 */
export async function measureParallel({
  options,
  files,
  folder,
  subjects,
  reference,
  report,
}: Bench): Promise<Results> {
  const { harts, ramMiB, repeat } = options
  const n = Math.max(1, Math.round(PROGRAM.n * options.scale))
  const results: Results = {}
  const checksums = new Set<number>()
  for (const emulator of [...subjects, reference]) {
    await using one = await LinuxMachine.boot(emulator, files, folder, { ramMiB })
    await using several = await LinuxMachine.boot(emulator, files, folder, { ramMiB, harts })
    const seconds = { single: [] as number[], oneHart: [] as number[], harts: [] as number[] }
    const run = async (machine: LinuxMachine, copies: number) => {
      const time = await machine.run(PROGRAM.name, `bench -p ${copies} ${PROGRAM.name} ${n}`)
      checksums.add(time.checksum)
      return time.hostSeconds
    }
    for (let i = 0; i < repeat; i++) {
      seconds.single.push(await run(one, 1))
      seconds.oneHart.push(await run(one, harts))
      seconds.harts.push(await run(several, harts))
    }
    const gain = spread(seconds.oneHart.map((s, i) => s / seconds.harts[i]))
    const ms = (times: number[]) => `${(spread(times).median * 1000).toFixed(0)} ms`
    report(
      `${emulator.name}: ${harts} processes of ${PROGRAM.name} on ${harts} harts ${gain.median.toFixed(2)} times as fast as on one ` +
        `(${gain.least.toFixed(2)} to ${gain.most.toFixed(2)}; ${ms(seconds.harts)}, on one ${ms(seconds.oneHart)}, one process alone ${ms(seconds.single)})`,
    )
    results[emulator.name] = seconds
  }
  if (checksums.size !== 1) throw new GuestError(`${PROGRAM.name}: different results: ${[...checksums].join(', ')}`)
  return results
}
