import type { Channel, RamBlock, RamHookSender, Transport } from '@ferryvm/core'
import type { WireEntry } from './wire-log.ts'

const CHUNK = 2 ** 20
const FILE_BYTES = 32768

/** What the engine asked of a source's channel. */
export interface Asked {
  /** Bytes of each write of the stream. */
  readonly writes: number[]
  /** Of the answers that come back, likewise. */
  readonly answers: number[]
  readonly phases: { readonly blocks: number; readonly pages: { block: RamBlock; offset: number; bytes: number }[] }[]
}

/** Writes down what is asked of the channels of `transport`, and changes nothing. */
export function observed<A>(transport: Transport<A>): { transport: Transport<A>; asked: Asked } {
  const asked: Asked = { writes: [], answers: [], phases: [] }
  const sizeOf = (buffers: readonly Uint8Array[]) => buffers.reduce((sum, { length }) => sum + length, 0)
  const watch = (channel: Channel, sizes: number[]): Channel => {
    const { sender, receiver } = channel.ramHooks ?? {}
    return {
      features: channel.features,
      remoteAddress: channel.remoteAddress,
      finish: channel.finish && (() => channel.finish!()),
      ramHooks: { receiver, sender: sender && watchSender(sender, asked) },
      read: (into) => channel.read(into),
      write(buffers) {
        sizes.push(sizeOf(buffers))
        return channel.write(buffers)
      },
      shutdown: (how) => channel.shutdown(how),
      close: (reason) => channel.close(reason),
    }
  }
  return {
    asked,
    transport: {
      ...transport,
      connect: async (address, context) => watch(await transport.connect(address, context), asked.writes),
      async listen(address, context) {
        const listener = await transport.listen(address, context)
        return {
          address: listener.address,
          async *[Symbol.asyncIterator]() {
            for await (const channel of listener) yield watch(channel, asked.answers)
          },
          [Symbol.asyncDispose]: () => listener[Symbol.asyncDispose](),
        }
      },
    },
  }
}

function watchSender(sender: RamHookSender, { phases }: Asked): RamHookSender {
  return {
    stats: sender.stats,
    begin(phase, blocks) {
      phases.push({ blocks: blocks.length, pages: [] })
      return sender.begin(phase, blocks)
    },
    savePage(block, offset, bytes) {
      phases.at(-1)!.pages.push({ block, offset, bytes })
      return sender.savePage(block, offset, bytes)
    },
    end: (phase) => sender.end(phase),
  }
}

export interface Run {
  readonly chunk: string
  readonly block: RamBlock
  readonly offset: number
  bytes: number
}

/** Runs of adjacent pages within one chunk, as one message each. Written for the test, from the text of the protocol. */
function runs({ phases }: Asked): Run[] {
  const found: Run[] = []
  for (const { pages } of phases) {
    let last: Run | undefined
    for (const { block, offset, bytes } of pages) {
      const chunk = `${block.idstr}#${Math.floor(offset / CHUNK)}`
      if (last && last.chunk === chunk && last.offset + last.bytes === offset) last.bytes += bytes
      else found.push((last = { chunk, block, offset, bytes }))
    }
  }
  return found
}

export type Traffic = Readonly<Record<string, { readonly count: number; readonly bytes: number }>>

/**
 * The traffic that the protocol's arithmetic gives for what was asked, by name. Whether a run in a chunk that is not
 * registered was zero, only the memory can say, at that moment.
 * @param isZero of a stopped guest's memory
 */
export function predict(asked: Asked, pinAll: boolean, isZero: (run: Run) => boolean): Traffic {
  const registered = new Set<string>()
  let [zeroRuns, writes, writtenBytes] = [0, 0, 0]
  for (const run of runs(asked)) {
    if (!pinAll && !registered.has(run.chunk) && isZero(run)) zeroRuns++
    else {
      if (!pinAll) registered.add(run.chunk)
      writes++
      writtenBytes += run.bytes
    }
  }
  const messages = (sizes: readonly number[]) => sizes.reduce((sum, bytes) => sum + Math.ceil(bytes / FILE_BYTES), 0)
  const bytesOf = (sizes: readonly number[]) => sizes.reduce((sum, bytes) => sum + bytes, 0)
  const stream = messages(asked.writes) + messages(asked.answers)
  const phases = asked.phases.length
  const { blocks } = asked.phases[0]!
  const traffic = {
    QEMU_FILE: { count: stream, bytes: bytesOf(asked.writes) + bytesOf(asked.answers) },
    RAM_BLOCKS_REQUEST: { count: 1, bytes: 0 },
    RAM_BLOCKS_RESULT: { count: 1, bytes: 32 * blocks },
    REGISTER_FINISHED: { count: phases, bytes: 0 },
    REGISTER_REQUEST: { count: registered.size, bytes: 24 * registered.size },
    REGISTER_RESULT: { count: registered.size, bytes: 16 * registered.size },
    COMPRESS: { count: zeroRuns, bytes: 24 * zeroRuns },
    WRITE: { count: writes, bytes: writtenBytes },
    /** One for each message that is no answer, and one of a destination that looks whether its source still waits. */
    READY: { count: stream + 1 + phases + registered.size + zeroRuns + (asked.answers.length > 0 ? 1 : 0), bytes: 0 },
  }
  return Object.fromEntries(Object.entries(traffic).filter(([, { count }]) => count > 0))
}

/** Of memory that a stopped guest leaves alone. */
export const zeroNow = ({ block, offset, bytes }: Run): boolean =>
  new Uint32Array(block.bytes.buffer, block.offset + offset, bytes / 4).every((word) => word === 0)

/** As the log says; only which of the runs were zero is taken from there. Both machines number their memory alike. */
export function zeroInLog(log: readonly WireEntry[]): (run: Run) => boolean {
  const zeros = log.flatMap(({ zero }) => zero ?? [])
  return ({ block, offset, bytes }) => {
    if (zeros[0]?.offset !== block.offset + offset || zeros[0].bytes !== bytes) return false
    zeros.shift()
    return true
  }
}
