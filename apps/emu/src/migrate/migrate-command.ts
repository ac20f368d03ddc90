import type { Command } from 'commander'
import { monitorAddress } from '../monitor-address.ts'
import { QmpClient } from '../qmp-client.ts'
import { progressLine } from '../stream/progress.ts'
import { UsageError } from '../usage-error.ts'
import { type MoveStep, moveMachine, type NbdAddress } from './move-machine.ts'

interface Options {
  readonly qmp: string
  readonly storage?: true
  readonly destination?: string
  readonly nbd?: string
  readonly tlsCreds?: string
}

/** Where NBD servers are by custom. */
const NBD_PORT = '10809'

/** `emu migrate URI`: moves the guest of a running machine, ours or stock QEMU's, by its monitor. */
export function addMigrateCommand(program: Command): void {
  program
    .command('migrate')
    .description('move the guest of a running machine; with --storage its disks go along')
    .argument('<uri>', 'where the destination waits: tcp:H:P, unix:F')
    .requiredOption('--qmp <monitor>', 'QMP monitor of the source: unix:F or tcp:H:P')
    .option('--storage', 'copy its disks into those of the destination, which are overwritten')
    .option('--destination <monitor>', 'with --storage: QMP monitor of the destination')
    .option(
      '--nbd <address>',
      'with --storage: where the destination takes the disks; default: beside <uri>, port 10809',
    )
    .option('--tls-creds <id>', 'with --storage: TLS credentials that both machines have (-object)')
    .exitOverride()
    .action(migrate)
}

async function migrate(uri: string, { qmp, storage, destination, nbd, tlsCreds }: Options): Promise<void> {
  if (storage && destination === undefined)
    throw new UsageError('--storage: needs --destination, whose disks are filled')
  if (!storage && (destination ?? nbd ?? tlsCreds) !== undefined)
    throw new UsageError('--destination, --nbd and --tls-creds: belong to --storage')
  const address = storage && nbdAddress(nbd ?? besides(uri))
  const source = await QmpClient.connect(monitorAddress('--qmp', qmp))
  let there: QmpClient | undefined
  const lines = new Map<MoveStep, ReturnType<typeof progressLine>>()
  try {
    there =
      destination === undefined ? undefined : await QmpClient.connect(monitorAddress('--destination', destination))
    await moveMachine(source, {
      uri,
      ...(there && address && { storage: { destination: there, address, tlsCreds } }),
      progress(step, done, total) {
        if (!lines.has(step)) {
          for (const line of lines.values()) line.done()
          lines.set(step, progressLine(step))
        }
        lines.get(step)!.progress(done, total)
      },
    })
    console.log(storage ? 'the guest and its disks have moved' : 'the guest has moved')
  } finally {
    for (const line of lines.values()) line.done()
    source.close()
    there?.close()
  }
}

/** @throws UsageError */
function nbdAddress(text: string): NbdAddress {
  const unix = /^unix:([^,]+)$/.exec(text)
  if (unix) return { type: 'unix', path: unix[1]! }
  const tcp = /^tcp:(.+):(\d+)$/.exec(text)
  if (tcp) return { type: 'inet', host: tcp[1]!.replace(/^\[|\]$/g, ''), port: tcp[2]! }
  throw new UsageError(`--nbd ${text}: unix:F or tcp:H:P`)
}

/** @throws UsageError there is no such place */
function besides(uri: string): string {
  const unix = /^unix:(.+)$/.exec(uri)
  if (unix) return `unix:${unix[1]}.nbd`
  const tcp = /^tcp:(.+):\d+$/.exec(uri)
  if (tcp) return `tcp:${tcp[1]}:${NBD_PORT}`
  throw new UsageError(`--nbd: is needed with ${uri}`)
}
