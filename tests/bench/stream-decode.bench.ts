/**
 * `pnpm bench stream-decode --peer=PATH`: how fast a stream of a 128 MiB guest of stock QEMU is taken apart, beside QEMU's own
 * script for that (`scripts/analyze-migration.py` of its sources, which is not ours to bring along).
 *
 * What is compared is CPU time, each in its own process once that runs: the script under Python without the start of the
 * interpreter, `inspectStream` and its JSON without the start of Node. Without `--peer` the measure is reading the file.
 */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { fileSource, inspectStream, reportJson } from '@ferryvm/stream'
import { buildLinuxInitramfs, findLinuxGuest } from '../../tooling/guest/linux-guest.ts'
import type { Benchmark } from '../../tooling/run-bench.ts'
import { scratchFolder, startStockQemu } from '../stock-qemu/stock-qemu.ts'

const RUNS = 15
const PEER_RUNS = 5

/** Milliseconds of CPU. */
async function cpuMs(run: () => unknown): Promise<number> {
  const before = process.cpuUsage()
  await run()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

async function inspectFile(path: string): Promise<string> {
  await using file = await open(path)
  const report = await inspectStream(fileSource(file, (await file.stat()).size))
  return JSON.stringify(reportJson(report))
}
async function readFileOnly(path: string): Promise<void> {
  await using file = await open(path)
  const into = new Uint8Array(1 << 20)
  while ((await file.read(into, 0, into.length)).bytesRead > 0);
}

/** The script's own CPU time, in milliseconds. */
function peerMs(script: string, args: readonly string[], cwd: string): number {
  const program = `
import runpy, sys, time
sys.argv = sys.argv[1:]
began = time.process_time()
runpy.run_path(sys.argv[0], run_name='__main__')
print(time.process_time() - began, file=sys.stderr)
`
  const command = `python3 -c "$0" "$@" 2>&1 >/dev/null`
  return 1000 * Number(execFileSync('sh', ['-c', command, program, script, ...args], { cwd, encoding: 'utf8' }))
}

async function saved(folder: string, name: string, args: string[], ready: RegExp | undefined): Promise<string> {
  let console = ''
  const machine = await startStockQemu(folder, ['-M', 'virt', '-m', '128M', ...args], (text) => void (console += text))
  while (ready && !ready.test(console)) await new Promise((resolve) => setTimeout(resolve, 100))
  const path = join(folder, `${name}.mig`)
  await machine.qmp('stop')
  await machine.migrate(`exec:cat > ${path}`)
  await machine.kill()
  return path
}

const bench: Benchmark = async (report, options = []) => {
  const peer = options.find((a) => a.startsWith('--peer='))?.slice('--peer='.length)
  const folder = scratchFolder()
  try {
    const streams: [string, string][] = [['started a moment ago', await saved(folder.path, 'fresh', [], undefined)]]
    const linux = findLinuxGuest()
    if (linux) {
      const initrd = join(folder.path, 'initrd.gz')
      writeFileSync(initrd, buildLinuxInitramfs(linux))
      const args = ['-kernel', linux.kernel, '-initrd', initrd, '-append', 'console=ttyS0', '-device', 'virtio-rng-pci']
      streams.push(['Linux at its prompt', await saved(folder.path, 'linux', args, /~ # /)])
    }
    for (const [name, path] of streams) {
      const first = await cpuMs(() => inspectFile(path))
      const ours: number[] = []
      const bare: number[] = []
      for (let i = 0; i < RUNS; i++) {
        ours.push(await cpuMs(() => inspectFile(path)))
        bare.push(await cpuMs(() => readFileOnly(path)))
      }
      const [mine, read] = [median(ours), median(bare)]
      report(
        `128 MiB guest, ${name}: inspect ${mine.toFixed(2)} ms, the first time ${first.toFixed(1)} ms; reading the file ` +
          `alone ${read.toFixed(2)} ms (${(mine / read).toFixed(2)} of it)`,
      )
      if (!peer) continue
      for (const [what, args] of [
        ['device state', []],
        ['device state, RAM extracted (-x)', ['-x']],
      ] as const) {
        const theirs = median(Array.from({ length: PEER_RUNS }, () => peerMs(peer, ['-f', path, ...args], folder.path)))
        report(`  the script, ${what}: ${theirs.toFixed(0)} ms, ${(theirs / mine).toFixed(1)} times as long`)
      }
    }
    if (!peer) report('  no --peer=PATH to analyze-migration.py: no comparison')
  } finally {
    folder.remove()
  }
}
export default bench
