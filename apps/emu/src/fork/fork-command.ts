import type { ForkReply } from '@ferryvm/monitor'
import type { Command } from 'commander'
import { monitorAddress } from '../monitor-address.ts'
import { normaliseDashes } from '../qemu-arguments.ts'
import { QmpClient } from '../qmp-client.ts'
import { run } from '../run.ts'
import { runCommand } from '../run-options.ts'

/** `emu fork`. */
export function addForkCommand(program: Command): void {
  program
    .command('fork')
    .description('run a copy-on-write twin of a machine that runs in another process, with the same options and these')
    .argument('<qmp>', 'QMP socket of the machine: unix:F or tcp:H:P')
    .argument('[options...]', 'of emu run, for what the twin has of its own: -serial, -qmp, -nographic, …')
    .passThroughOptions()
    .allowUnknownOption()
    .exitOverride()
    .action(async (qmp: string, own: readonly string[]) => {
      const client = await QmpClient.connect(monitorAddress('emu fork', qmp))
      let reply: ForkReply
      try {
        reply = await client.execute('x-fork')
      } finally {
        client.close()
      }
      console.error(`emu: the parent stood for ${reply.downtime} ms`)
      const argv = [...reply.arguments, ...normaliseDashes(own), '--incoming', reply.uri, '--lazy']
      await runCommand(run).exitOverride().parseAsync(argv, { from: 'user' })
    })
}
