/**
 * `pnpm bench stream-decode`: how fast a stream is taken apart and printed as JSON, beside QEMU's own script for that, which is
 * fetched for it (`--peer=PATH`: another one). Streams: of 128 MiB guests of stock QEMU, and the samples of `../shared/streams`.
 * Before anything is measured, every value that the script finds is compared with ours.
 *
 * All figures are CPU time. What they mean: docs/stream-format.md, "How fast".
 */
import { execFileSync } from 'node:child_process'
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { zstdDecompressSync } from 'node:zlib'
import { type ByteSource, bytesSource, fileSource, inspectStream, reportJsonText } from '@ferryvm/stream'
import { buildLinuxInitramfs, findLinuxGuest } from '../../tooling/guest/linux-guest.ts'
import type { Benchmark } from '../../tooling/run-bench.ts'
import { main, root } from '../harness/emu.ts'
import { scratchFolder, startStockQemu } from '../stock-qemu/stock-qemu.ts'
import { analyzeMigration } from './analyze-migration.ts'
import { compareWithScript } from './compare-with-script.ts'

const WARM_UP = 200
const RUNS = 101
const PEER_RUNS = 7

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!
/** Milliseconds of CPU. */
async function cpuMs(run: () => unknown): Promise<number> {
  const before = process.cpuUsage()
  await run()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}
/** Once the code is compiled. */
async function warmMs(run: () => unknown): Promise<number> {
  for (let i = 0; i < WARM_UP; i++) await run()
  const times: number[] = []
  for (let i = 0; i < RUNS; i++) times.push(await cpuMs(run))
  return median(times)
}

const inspect = async (source: ByteSource): Promise<string> => reportJsonText(await inspectStream(source))
async function inFile<T>(path: string, use: (fd: number) => T): Promise<Awaited<T>> {
  const fd = openSync(path, 'r')
  try {
    return await use(fd)
  } finally {
    closeSync(fd)
  }
}
const inspectFile = (path: string): Promise<string> =>
  inFile(path, (fd) => {
    const read = (into: Uint8Array, at: number, length: number, position: number) => ({
      bytesRead: readSync(fd, into, at, length, position),
    })
    return inspect(fileSource({ read }, statSync(path).size))
  })
const readOnly = (path: string): Promise<void> =>
  inFile(path, (fd) => {
    const into = new Uint8Array(1 << 18)
    while (readSync(fd, into, 0, into.length, null) > 0);
  })

/** The script's own CPU time, in milliseconds: without the start of Python. */
function peerMs(script: string, path: string): number {
  const program = `
import runpy, sys, time
sys.argv = sys.argv[1:]
began = time.process_time()
runpy.run_path(sys.argv[0], run_name='__main__')
print(time.process_time() - began, file=sys.stderr)
`
  const command = `python3 -c "$0" "$@" 2>&1 >/dev/null`
  const run = () =>
    1000 * Number(execFileSync('sh', ['-c', command, program, script, '-f', path], { encoding: 'utf8' }))
  return median(Array.from({ length: PEER_RUNS }, run))
}

/** CPU time of a whole command, in milliseconds. */
function commandMs(command: readonly string[]): number {
  const program = `
import resource, subprocess, sys
def used():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime
times = []
for i in range(${PEER_RUNS + 1}):
    before = used()
    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
    times.append(used() - before)
print(sorted(times[1:])[${PEER_RUNS >> 1}])
`
  return 1000 * Number(execFileSync('python3', ['-c', program, ...command], { encoding: 'utf8' }))
}
/** As it is installed, if `pnpm build` was run; else from its sources. */
function emuCommand(): { how: string; command: string[] } {
  const built = join(root, 'apps/emu/dist/main.js')
  if (existsSync(built)) return { how: 'built', command: [process.execPath, built] }
  const flags = ['--conditions=source', '--disable-warning=ExperimentalWarning']
  return { how: 'from source', command: [process.execPath, ...flags, main] }
}

const scriptJson = (script: string, path: string) =>
  JSON.parse(execFileSync('python3', [script, '-f', path], { encoding: 'utf8', stdio: 'pipe', maxBuffer: 1 << 28 }))

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

const times = (ratio: number): string => `${ratio.toFixed(ratio < 10 ? 1 : 0)}x`

async function measureGuest(report: (line: string) => void, name: string, path: string, script: string): Promise<void> {
  const bytes = new Uint8Array(readFileSync(path))
  const { values, differ } = compareWithScript(scriptJson(script, path), await inspectStream(bytesSource(bytes)))
  if (differ.length > 0) throw new Error(`${name}: the script finds other values: ${differ.join(', ')}`)
  const theirs = peerMs(script, path)
  const memory = await warmMs(() => inspect(bytesSource(bytes)))
  const file = await warmMs(() => inspectFile(path))
  const floor = await warmMs(() => readOnly(path))
  const { how, command } = emuCommand()
  const whole = [
    commandMs(['python3', script, '-f', path]),
    commandMs([...command, 'inspect', '--json', path]),
  ] as const
  const bare = [commandMs(['python3', '-c', '0']), commandMs([process.execPath, '-e', '0'])] as const
  report(
    `128 MiB guest, ${name}: ${(bytes.length / 1e6).toFixed(1)} MB; all ${values} values of the script are in ours`,
  )
  report(`  in memory      ${times(theirs / memory)}: ${memory.toFixed(2)} ms, the script ${theirs.toFixed(1)} ms`)
  report(
    `  from its file  ${times(theirs / file)}: ${file.toFixed(2)} ms, of which reading ${floor.toFixed(2)} ms: reading alone would be ${times(theirs / floor)}`,
  )
  report(
    `  whole command  ${times(whole[0] / whole[1])}: emu inspect --json (${how}) ${whole[1].toFixed(0)} ms, the script ${whole[0].toFixed(0)} ms; ` +
      `starting Node ${bare[1].toFixed(0)} ms, Python ${bare[0].toFixed(0)} ms`,
  )
}

async function measureSamples(report: (line: string) => void, folder: string, script: string): Promise<void> {
  const samples = join(root, '../shared/streams')
  if (!existsSync(samples)) return report('samples: ../shared/streams is not here')
  const ratios: number[] = []
  let unreadable = 0
  for (const name of readdirSync(samples).filter((n) => n.endsWith('.mig.zst'))) {
    const bytes = new Uint8Array(zstdDecompressSync(readFileSync(join(samples, name))))
    const path = join(folder, 'sample.mig')
    writeFileSync(path, bytes)
    let theirJson: ReturnType<typeof scriptJson>
    try {
      theirJson = scriptJson(script, path)
    } catch {
      unreadable++
      continue
    }
    const { differ } = compareWithScript(theirJson, await inspectStream(bytesSource(bytes)))
    if (differ.length > 0) throw new Error(`${name}: the script finds other values: ${differ.join(', ')}`)
    ratios.push(peerMs(script, path) / (await warmMs(() => inspect(bytesSource(bytes)))))
  }
  ratios.sort((a, b) => a - b)
  report(
    `${ratios.length} samples, in memory: ${times(median(ratios))} (${times(ratios[0]!)} to ${times(ratios.at(-1)!)}); all values the same; ` +
      `${unreadable} more, of a newer QEMU, the script cannot read`,
  )
}

const bench: Benchmark = async (report, options = []) => {
  const script = options.find((a) => a.startsWith('--peer='))?.slice('--peer='.length) ?? analyzeMigration()
  const folder = scratchFolder()
  try {
    await measureGuest(report, 'started a moment ago', await saved(folder.path, 'fresh', [], undefined), script)
    const linux = findLinuxGuest()
    if (linux) {
      const initrd = join(folder.path, 'initrd.gz')
      writeFileSync(initrd, buildLinuxInitramfs(linux))
      const args = ['-kernel', linux.kernel, '-initrd', initrd, '-append', 'console=ttyS0', '-device', 'virtio-rng-pci']
      await measureGuest(report, 'Linux at its prompt', await saved(folder.path, 'linux', args, /~ # /), script)
    }
    await measureSamples(report, folder.path, script)
  } finally {
    folder.remove()
  }
}
export default bench
