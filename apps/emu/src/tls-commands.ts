import { join } from 'node:path'
import type { Command } from 'commander'
import { UsageError } from './usage-error.ts'

const collect = (value: string, before: string[] = []) => [...before, value]

/** `emu tls init`. */
export function addTlsCommands(program: Command): void {
  const group = program.command('tls').description('certificates for migration over TLS').exitOverride()
  group
    .command('init <dir>')
    .description('make a CA, a server and a client certificate, in files that emu and QEMU read')
    .option('--host <name>', 'name or IP address of a destination; may be given several times', collect)
    .option('--days <n>', 'how long they are valid', '3650')
    .allowExcessArguments(false)
    .exitOverride()
    .action(async (dir: string, options: { host?: string[]; days: string }) => {
      if (!options.host) throw new UsageError('emu tls init: --host is missing: what sources will connect to')
      const { initTlsFolder } = await import('@ferryvm/transport-tls/pki')
      const names = await initTlsFolder(dir, { hosts: options.host, days: Number(options.days) })
      for (const name of names) console.log(join(dir, name))
      console.log(`
Copy the folder to each host; ${join(dir, 'ca-key.pem')} is needed nowhere but here.
On the destination:  -object tls-creds-x509,id=tls0,dir=${dir},endpoint=server
On the source:       -object tls-creds-x509,id=tls0,dir=${dir},endpoint=client
On both, before the migration:  migrate_set_parameter tls-creds tls0`)
    })
}
