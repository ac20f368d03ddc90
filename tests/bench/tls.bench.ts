import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { addPskUser, initTlsFolder } from '@ferryvm/transport-tls/pki'
import { scratchFolder, stockQemuCommand, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { benchImage } from './bench-guest.ts'
import { emuArgs, move, type Side, startSide, stockArgs } from './bench-sides.ts'
import { threadTimes } from './cpu/thread-times.ts'

const RAM_MIB = 256
const MiB = 2 ** 20
const MOVES = 3

const cpuSeconds = (...sides: readonly Side[]): number =>
  sides.reduce((sum, { pid }) => sum + [...threadTimes(pid).values()].reduce((all, one) => all + one, 0), 0)

/**
 * A guest with 256 MiB of RAM, all of it in use and idle, moves over TCP and over TLS on this machine: ours to ours, stock QEMU to
 * stock QEMU, and between the two, in one run. The ratios are to stock to stock with the same credentials: the best of the rates, the least of
 * the CPU times (which hold the guest's as well, the little that it needs).
 */
export default async function tlsBench(report: (line: string) => void): Promise<void> {
  const folder = scratchFolder()
  const image = join(folder.path, 'bench.bin')
  writeFileSync(image, benchImage)
  const dir = join(folder.path, 'pki')
  await initTlsFolder(dir, { hosts: ['localhost'] })
  await addPskUser(dir)
  const machine = ['-M', 'virt', '-m', `${RAM_MIB}M`, '-bios', 'none', '-kernel', image]
  const kinds = {
    ours: { command: process.execPath, args: [...emuArgs, ...machine] },
    stock: { command: stockQemuCommand, args: [...stockArgs, ...machine] },
  }
  type Kind = keyof typeof kinds
  const missing = stockQemuMissing()
  if (missing) report(`${missing}: our figures alone`)
  const pairs: readonly (readonly [Kind, Kind])[] = missing
    ? [['ours', 'ours']]
    : [
        ['stock', 'stock'],
        ['ours', 'ours'],
        ['ours', 'stock'],
        ['stock', 'ours'],
      ]
  try {
    for (const credentials of ['none', 'x509', 'psk', 'anon']) {
      const object = (endpoint: string) =>
        credentials === 'none' ? [] : ['-object', `tls-creds-${credentials},id=tls0,endpoint=${endpoint},dir=${dir}`]
      const parameters = credentials === 'none' ? {} : { 'tls-creds': 'tls0', 'tls-hostname': 'localhost' }
      const start = (kind: Kind, incoming: boolean): Promise<Side> => {
        const { command, args } = kinds[kind]
        return startSide(folder.path, command, [...args, ...object(incoming ? 'server' : 'client')], incoming)
      }
      // In turns, so that what else goes on on this machine meets all of them.
      const measured = pairs.map(() => [] as { rate: number; cpu: number }[])
      for (let turn = 0; turn < MOVES; turn++) {
        for (const [i, [from, to]] of pairs.entries()) {
          const source = await start(from, false)
          const destination = await start(to, true)
          try {
            await source.console.ready()
            await source.console.run('fill', RAM_MIB)
            const before = cpuSeconds(source, destination)
            const { bytes, seconds } = await move(source, destination, parameters)
            const spent = cpuSeconds(source, destination) - before
            measured[i]!.push({ rate: bytes / seconds, cpu: spent / (bytes / 1024 / MiB) })
          } finally {
            source.kill()
            destination.kill()
          }
        }
      }
      const [stock] = measured
      for (const [i, [from, to]] of pairs.entries()) {
        const best = (all: readonly { rate: number }[]) => Math.max(...all.map(({ rate }) => rate))
        const cpu = (all: readonly { cpu: number }[]) => Math.min(...all.map((one) => one.cpu))
        const [rate, spent] = [best(measured[i]!), cpu(measured[i]!)]
        const beside = missing
          ? ''
          : `; beside stock to stock: ${(rate / best(stock!)).toFixed(2)} of its rate, ${(spent / cpu(stock!)).toFixed(2)} of its CPU time`
        report(
          `tls-creds ${credentials}, ${from} to ${to}: ${(rate / MiB).toFixed(0)} MiB/s, ` +
            `${spent.toFixed(2)} s of CPU per GiB at both ends${beside}`,
        )
      }
    }
  } finally {
    folder.remove()
  }
}
