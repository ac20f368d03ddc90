/**
 * `pnpm fuzz:streams`: damaged streams of stock QEMU against the incoming side of whole machines and the stream tools.
 *
 * `--cases=1000000` so many in all; `--seed=1` which; `--shards=1` processes at once. `--memory-mib=900` and `--case-ms=2000`
 * (of CPU): a process or a case beyond that is a finding, as is any error that is not ours, a crash and a hang. It writes down which
 * stretches are done (`.cache/fuzz/seed-N.json`) and goes on there when it is started again; `--fresh` forgets that.
 * `--case=N` runs one case and says what came of it; `--write=FILE` keeps its stream. Exit status 1: there are findings.
 */
import { fork } from 'node:child_process'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { FuzzCases } from './fuzz-case.ts'
import type { FuzzOrder, FuzzProgress } from './fuzz-worker.ts'

/** Cases one process runs before a fresh one takes its place. */
const STRETCH = 10_000
const REPORT_EVERY = 50
/** Without a word for so long, a process hangs; a machine with much else to do must not look like it. */
const WATCHDOG_MS = 60_000

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    shards: { type: 'string', default: '1' },
    'memory-mib': { type: 'string', default: '900' },
    'case-ms': { type: 'string', default: '2000' },
    fresh: { type: 'boolean', default: false },
    case: { type: 'string' },
    write: { type: 'string' },
  },
})
const seed = Number(values.seed)
const total = Number(values.cases)
const caseCapMs = Number(values['case-ms'])
const memoryCapBytes = Number(values['memory-mib']) * 2 ** 20

type Found = FuzzProgress['findings'][number]
interface Log {
  readonly seed: number
  /** Numbers of stretches that are done. */
  readonly done: number[]
  loads: number
  largestRssBytes: number
  slowestMs: number
  readonly findings: Found[]
}

const file = resolve(import.meta.dirname, `../../.cache/fuzz/seed-${seed}.json`)
function readLog(): Log {
  const empty: Log = { seed, done: [], loads: 0, largestRssBytes: 0, slowestMs: 0, findings: [] }
  try {
    return values.fresh ? empty : (JSON.parse(readFileSync(file, 'utf8')) as Log)
  } catch {
    return empty
  }
}
function writeLog(log: Log): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.part`, JSON.stringify(log))
  renameSync(`${file}.part`, file)
}

/** Runs cases in a process of their own; a case that ends it, or never ends, is found and left behind. */
async function stretch(from: number, to: number, log: Log): Promise<void> {
  let next = from
  let every = REPORT_EVERY
  let suspectUntil = from
  while (next < to) {
    const { reached, ending } = await oneProcess({ seed, from: next, to, every, memoryCapBytes, caseCapMs }, log)
    next = reached
    if (next >= to) return
    if (ending === 'memory') continue
    if (every === 1) {
      // Reports came after each case, so it is this one.
      log.findings.push({ number: next, target: next % 2 === 0 ? 'loader' : 'tools', specimen: '?', what: ending })
      console.log(`case ${next}: ${ending}`)
      next++
      every = REPORT_EVERY
    } else if (next + every > suspectUntil) {
      suspectUntil = next + every
      every = 1
    }
  }
}

function oneProcess(order: FuzzOrder, log: Log): Promise<{ reached: number; ending: string }> {
  const child = fork(resolve(import.meta.dirname, 'fuzz-worker.ts'), [], {
    execArgv: ['--conditions=source', '--disable-warning=ExperimentalWarning', '--max-old-space-size=512'],
    stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
  })
  let stderr = ''
  child.stderr!.on('data', (text: Buffer) => (stderr = (stderr + text).slice(-2000)))
  let reached = order.from
  let loads = 0
  let ending = ''
  let watchdog: NodeJS.Timeout | undefined
  const watch = () => {
    clearTimeout(watchdog)
    watchdog = setTimeout(() => {
      ending = `no end within ${WATCHDOG_MS / 1000} s: a hang`
      child.kill('SIGKILL')
    }, WATCHDOG_MS)
  }
  watch()
  child.on('message', (p: FuzzProgress) => {
    watch()
    reached = p.next
    log.loads += p.loads - loads
    loads = p.loads
    log.largestRssBytes = Math.max(log.largestRssBytes, p.rssBytes)
    log.slowestMs = Math.max(log.slowestMs, p.slowestMs)
    for (const found of p.findings) {
      log.findings.push(found)
      console.log(`case ${found.number} (${found.target}, ${found.specimen}): ${found.what}\n${found.stack ?? ''}`)
      if (found.what.startsWith('the process has')) ending = 'memory'
    }
  })
  child.send(order)
  return new Promise((done) => {
    child.on('exit', (code, signal) => {
      clearTimeout(watchdog)
      done({ reached, ending: ending || `the process ended (${signal ?? code}): ${stderr.trim()}` })
    })
  })
}

async function runAll(): Promise<void> {
  const log = readLog()
  const done = new Set(log.done)
  const waiting = Array.from({ length: Math.ceil(total / STRETCH) }, (_, i) => i).filter((i) => !done.has(i))
  const began = performance.now()
  let cases = 0
  const shard = async () => {
    for (let n = waiting.shift(); n !== undefined; n = waiting.shift()) {
      const [from, to] = [n * STRETCH, Math.min(total, (n + 1) * STRETCH)]
      await stretch(from, to, log)
      cases += to - from
      if (to - from === STRETCH) log.done.push(n)
      writeLog(log)
      const rate = cases / ((performance.now() - began) / 1000)
      const left = (waiting.length * STRETCH) / rate / 60
      console.log(
        `${log.done.length * STRETCH} of ${total} cases, ${log.findings.length} findings, ${rate.toFixed(0)}/s, ` +
          `largest process ${Math.round(log.largestRssBytes / 2 ** 20)} MiB, slowest case ${Math.round(log.slowestMs)} ms, ` +
          `about ${left.toFixed(0)} min left`,
      )
    }
  }
  await Promise.all(Array.from({ length: Number(values.shards) }, shard))
  console.log(
    `seed ${seed}: ${total} cases (${log.loads} of them loaded by a machine), ${log.findings.length} findings`,
  )
  for (const { number, target, what } of log.findings) console.log(`  case ${number} (${target}): ${what}`)
  process.exitCode = log.findings.length === 0 ? 0 : 1
}

async function runOne(number: number): Promise<void> {
  await using cases = await FuzzCases.create(seed)
  if (values.write !== undefined) writeFileSync(values.write, await cases.bytes(number))
  const { target, specimen, ms, finding } = await cases.run(number)
  console.log(`case ${number}: ${target}, ${specimen}, ${ms.toFixed(1)} ms: ${finding?.what ?? 'nothing wrong'}`)
  if (finding?.stack) console.log(finding.stack)
  process.exitCode = finding ? 1 : 0
}

if (values.case === undefined) await runAll()
else await runOne(Number(values.case))
