import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { addPskUser, initTlsFolder } from '@ferryvm/transport-tls/pki'
import { scratchFolder, stockQemuCommand, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { benchImage } from './bench-guest.ts'
import { emuArgs, move, type Side, startSide, stockArgs } from './bench-sides.ts'

const RAM_MIB = 256
const MiB = 2 ** 20
const MOVES = 3

/**
 * A guest with 256 MiB of RAM, all of it in use and idle, moves over TCP and over TLS on this machine: ours to ours, stock QEMU to
 * stock QEMU, and between the two, in one run. The ratio is to stock to stock with the same credentials.
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
      let stockRate: number | undefined
      for (const [from, to] of pairs) {
        const rates: number[] = []
        for (let i = 0; i < MOVES; i++) {
          const source = await start(from, false)
          const destination = await start(to, true)
          try {
            await source.console.ready()
            await source.console.run('fill', RAM_MIB)
            const { bytes, seconds } = await move(source, destination, parameters)
            rates.push(bytes / seconds)
          } finally {
            source.kill()
            destination.kill()
          }
        }
        const best = Math.max(...rates)
        if (from === 'stock' && to === 'stock') stockRate = best
        const ratio = stockRate === undefined ? '' : `, ${(best / stockRate).toFixed(2)} of stock to stock`
        report(`tls-creds ${credentials}, ${from} to ${to}: ${(best / MiB).toFixed(0)} MiB/s${ratio}`)
      }
    }
  } finally {
    folder.remove()
  }
}
