import { scratchFolder, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { type BenchConsole, startOurs, startStock } from './bench-guest.ts'

const REPETITIONS = 7
const BURST = 20_000
const COLD = 100

/**
 * What a guest pays for a read of a device register: one of many in a row, and one after a millisecond without any, when the
 * device thread has gone to sleep. The least of seven averages, stock QEMU's in turn.
 */
export default async function mmioBench(report: (line: string) => void): Promise<void> {
  const folder = scratchFolder()
  const missing = stockQemuMissing()
  if (missing) report(`${missing}: our figures alone`)
  try {
    await using ours = await startOurs()
    await using stock = missing ? undefined : await startStock(folder.path)
    for (const [what, nsPerRead] of [
      ['burst', burst],
      ['cold', cold],
    ] as const) {
      let mine = Infinity
      let theirs = Infinity
      for (let i = 0; i < REPETITIONS; i++) {
        mine = Math.min(mine, await nsPerRead(ours.console))
        if (stock) theirs = Math.min(theirs, await nsPerRead(stock.console))
      }
      const beside = stock ? `; stock QEMU ${theirs.toFixed(0)} ns; ratio ${(theirs / mine).toFixed(4)}` : ''
      report(`${what}: ${mine.toFixed(0)} ns per read${beside}`)
    }
  } finally {
    folder.remove()
  }
}

async function burst(console: BenchConsole): Promise<number> {
  const { seconds } = await console.run('mmio-burst', BURST)
  return (seconds * 1e9) / BURST
}

async function cold(console: BenchConsole): Promise<number> {
  const { checksum: ticks } = await console.run('mmio-cold', COLD)
  return (ticks * 100) / COLD
}
