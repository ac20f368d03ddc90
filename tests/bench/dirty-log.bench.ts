import { setInterval as every } from 'node:timers/promises'
import type { TestVm } from '../harness/vm.ts'
import { type BenchConsole, startOurs } from './bench-guest.ts'

const MiB = 2 ** 20
const REPETITIONS = 7
/** Programs of the benchmark guest: stores per unit of `n`, and an `n` for some rounds of the log. */
const LOADS = [
  { program: 'store', n: 24, stores: 2 ** 20, what: '8-byte stores over 8 MiB' },
  { program: 'touch', n: 1000, stores: 2048, what: 'one store per page of 8 MiB' },
] as const

/**
 * ns per store of a guest program: log off; log on, with nobody reading it; log on, taken every 50 ms as a migration does.
 * The least of seven, the three in turn.
 */
export default async function dirtyLogBench(report: (line: string) => void): Promise<void> {
  await using ours = await startOurs(64 * MiB)
  const { memory } = ours.vm.machine
  for (const { program, n, stores, what } of LOADS) {
    const best = { off: Infinity, on: Infinity, taken: Infinity }
    let rounds = 0
    let pages = 0
    const measure = async (way: keyof typeof best) => {
      const { seconds } = await ours.console.run(program, n)
      best[way] = Math.min(best[way], (seconds * 1e9) / (n * stores))
    }
    await measure('off')
    for (let i = 0; i < REPETITIONS; i++) {
      memory.dirtyLog.enabled = false
      await measure('off')
      memory.dirtyLog.enabled = true
      await ours.vm.machine.cpu.flushWriteTlb()
      await measure('on')
      const taking = takeEvery50ms(ours)
      await measure('taken')
      const taken = await taking.stop()
      rounds += taken.rounds
      pages += taken.pages
    }
    memory.dirtyLog.enabled = false
    const ratio = (ns: number) => `${ns.toFixed(2)} ns (${(ns / best.off).toFixed(3)})`
    report(
      `${what}: log off ${best.off.toFixed(2)} ns per store, on ${ratio(best.on)}, ` +
        `on and taken every 50 ms ${ratio(best.taken)}; ${Math.round(pages / rounds)} dirty pages a round`,
    )
  }
}

/** What a migration does at the start of every pass. */
function takeEvery50ms({ vm }: { vm: TestVm; console: BenchConsole }) {
  const { memory, cpu } = vm.machine
  const block = memory.blocks.find((b) => b.idstr === 'riscv_virt_board.ram')!
  const bitmap = new Int32Array(Math.ceil(block.sizeBytes / 4096 / 32))
  const end = new AbortController()
  let rounds = 0
  let pages = 0
  const loop = (async () => {
    for await (const _ of every(50, undefined, { signal: end.signal })) {
      bitmap.fill(0)
      pages += memory.dirtyLog.take(block, bitmap)
      await cpu.flushWriteTlb()
      rounds++
    }
  })().catch((e) => {
    if (e.name !== 'AbortError') throw e
  })
  return {
    async stop() {
      end.abort()
      await loop
      return { rounds, pages }
    },
  }
}
