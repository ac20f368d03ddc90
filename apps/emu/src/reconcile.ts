import { rename, rm } from 'node:fs/promises'
import { type SeekableChannel, silentLogger } from '@ferryvm/core'
import { reconcile } from '@ferryvm/migration'
import { file } from '@ferryvm/transport-file'
import type { Command } from 'commander'
import { UsageError } from './usage-error.ts'

const transport = file()

/** `emu reconcile SOURCE-JOURNAL [DESTINATION-JOURNAL] -o OUT` */
export function addReconcile(program: Command): void {
  program
    .command('reconcile')
    .description('put a guest together again after one side of a postcopy migration has died')
    .argument('<source>', "the source's page journal (emu run -postcopy-journal)")
    .argument('[destination]', "the destination's; without it nobody knows whether it ran the guest")
    .requiredOption('-o, --output <file>', 'a stream, for -incoming file:… of emu and exec:cat … of stock QEMU')
    .option('--go-back', 'give up what the guest did at the destination')
    .exitOverride()
    .action(run)
}

async function run(source: string, destination: string | undefined, options: { output: string; goBack?: true }) {
  const signal = new AbortController().signal
  const open = async (path: string): Promise<SeekableChannel> => {
    await using listener = await transport.listen({ path, offset: 0 }, { signal, log: silentLogger })
    for await (const channel of listener) return channel as SeekableChannel
    throw new UsageError(`${path} cannot be read`)
  }
  const partial = `${options.output}.part`
  const here = await open(source)
  const there = destination === undefined ? undefined : await open(destination)
  try {
    const out = await transport.connect({ path: partial, offset: 0 }, { signal, log: silentLogger })
    const result = await reconcile(here, there, out, { goBack: options.goBack })
    await out.close()
    await rename(partial, options.output)
    console.log(`${options.output}: ${MOMENTS[result.moment]}`)
    console.log(`${result.pagesOfDestination} pages are the destination's, ${result.pagesOfSource} the source's`)
  } catch (error) {
    await rm(partial, { force: true })
    throw error
  } finally {
    await here.close()
    await there?.close()
  }
}

const MOMENTS = {
  destination: 'the guest as it stood at the destination; nothing is lost',
  switch: 'the guest at the switch; it has not run since, and nothing is lost',
  back: 'the guest at the switch; what it did at the destination is given up',
} as const
