import { join } from 'node:path'
import { FerryError, silentLogger } from '@ferryvm/core'
import { tcp, unix } from '@ferryvm/transport-socket'
import type { DiagnoseOptions } from '@ferryvm/transport-tls/doctor'
import type { Command } from 'commander'
import { UsageError } from './usage-error.ts'

const collect = (value: string, before: string[] = []) => [...before, value]

/** `emu tls init` and `emu tls doctor`. */
export function addTlsCommands(program: Command): void {
  const group = program.command('tls').description('certificates for migration over TLS').exitOverride()
  group
    .command('init <dir>')
    .description('make a CA, a server and a client certificate, or a shared key, in files that emu and QEMU read')
    .option('--host <name>', 'name or IP address of a destination; may be given several times', collect)
    .option('--days <n>', 'how long they are valid', '3650')
    .option('--renew', 'issue new certificates by the CA that is there')
    .option('--psk [user]', 'add a key for tls-creds-psk to keys.psk')
    .allowExcessArguments(false)
    .exitOverride()
    .action(init)
  group
    .command('doctor [dir]')
    .description('say what is wrong with the files of both ends (dir: of either), and which command mends it')
    .option('--client <dir>', "folder of the source's files")
    .option('--server <dir>', "folder of the destination's files")
    .option('--kind <kind>', 'x509, psk or anon', 'x509')
    .option('--host <name>', 'by which the source reaches the destination')
    .option('--username <name>', 'of the key for psk')
    .option(
      '--connect <uri>',
      'ask a destination that waits at tcp:H:P or unix:F; it goes on waiting, unless it waits without TLS: then it takes the question for a guest',
    )
    .option('--finish', 'with --connect: finish the handshake, which ends a destination that accepts it')
    .allowExcessArguments(false)
    .exitOverride()
    .action(doctor)
}

interface InitOptions {
  readonly host?: string[]
  readonly days: string
  readonly renew?: true
  readonly psk?: true | string
}

async function init(dir: string, { host, days, renew, psk }: InitOptions): Promise<void> {
  const { addPskUser, initTlsFolder } = await import('@ferryvm/transport-tls/pki')
  if (psk) {
    console.log(join(dir, await addPskUser(dir, psk === true ? undefined : psk)))
    console.log(`\nCopy it to each host, secretly. On both:  -object tls-creds-psk,id=tls0,dir=${dir},endpoint=…`)
    return
  }
  if (!host) throw new UsageError('emu tls init: --host is missing: what sources will connect to')
  const names = await initTlsFolder(dir, { hosts: host, days: Number(days), ...(renew && { renew }) })
  for (const name of names) console.log(join(dir, name))
  console.log(`
Copy the folder to each host; ${join(dir, 'ca-key.pem')} is needed nowhere but here.
On the destination:  -object tls-creds-x509,id=tls0,dir=${dir},endpoint=server
On the source:       -object tls-creds-x509,id=tls0,dir=${dir},endpoint=client
On both, before the migration:  migrate_set_parameter tls-creds tls0`)
}

interface DoctorOptions {
  readonly client?: string
  readonly server?: string
  readonly kind: string
  readonly host?: string
  readonly username?: string
  readonly connect?: string
  readonly finish?: true
}

async function doctor(dir: string | undefined, options: DoctorOptions): Promise<void> {
  const { client = dir, server = dir, kind, host, username, connect, finish } = options
  if (kind !== 'x509' && kind !== 'psk' && kind !== 'anon') {
    throw new UsageError(`emu tls doctor: --kind is x509, psk or anon, not ${kind}`)
  }
  if (client === undefined && server === undefined && kind !== 'anon') {
    throw new UsageError('emu tls doctor: give a folder, or --client and --server')
  }
  if (connect !== undefined && client === undefined && kind !== 'anon') {
    throw new UsageError('emu tls doctor: --connect needs the files of the client')
  }
  const { diagnoseTls } = await import('@ferryvm/transport-tls/doctor')
  const live = connect === undefined ? undefined : { ...dial(connect), ...(finish && { finish }) }
  const tcpHost = connect === undefined ? undefined : /^tcp:\[?(.*?)\]?:\d+$/.exec(connect)?.[1]
  const { problem, mend, fine } = await diagnoseTls({
    kind,
    ...(client === undefined ? kind === 'anon' && { clientDir: '' } : { clientDir: client }),
    ...(server !== undefined && { serverDir: server }),
    ...((host ?? tcpHost) !== undefined && { host: (host ?? tcpHost)! }),
    ...(username !== undefined && { username }),
    ...(live && { live }),
  })
  for (const what of fine) console.log(`fine: ${what}`)
  if (problem === undefined) return
  console.log(`wrong: ${problem}`)
  if (mend !== undefined) console.log(`mend: ${mend}`)
  process.exitCode = 1
}

/** @throws UsageError there is no asking that kind of address */
function dial(uri: string): NonNullable<DiagnoseOptions['live']> {
  const transport = [tcp(), unix()].find(({ scheme }) => uri.startsWith(`${scheme}:`))
  if (!transport) throw new UsageError(`emu tls doctor: --connect ${uri}: expected tcp:HOST:PORT or unix:PATH`)
  let address: unknown
  try {
    address = transport.parseAddress(uri.slice(transport.scheme.length + 1))
  } catch (cause) {
    if (FerryError.isInstance(cause)) throw new UsageError(`emu tls doctor: ${cause.message}`, { cause })
    throw cause
  }
  return {
    name: uri,
    connect: () => transport.connect(address as never, { signal: AbortSignal.timeout(10_000), log: silentLogger }),
  }
}
