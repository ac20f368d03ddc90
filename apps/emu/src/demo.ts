import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor } from '@ferryvm/embedded-guest'
import cliProgress from 'cli-progress'
import { QmpClient } from './qmp-client.ts'

export interface DemoOptions {
  /** How often the guest moves; even numbers bring it home. */
  readonly migrations: number
  /** Bytes per second, so that there is something to see. */
  readonly maxBandwidth: number
}

interface Side {
  readonly name: string
  readonly qmp: QmpClient
  /** Sections in the order in which this side loaded them. */
  readonly loaded: { idstr: string; instanceId: number; priority: number }[]
  type(text: string): void
  readonly exited: Promise<number>
  kill(): void
}

const MiB = 2 ** 20

/**
 * Boots the embedded guest in one process, moves it to another while it works, and asks the guest what it noticed.
 * @returns the exit status: 0 when the guest says that nothing was lost or repeated
 */
export async function demo(options: DemoOptions): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-demo-'))
  const disk = join(folder, 'disk.img')
  writeFileSync(disk, '')
  truncateSync(disk, 8 * MiB)
  const sides: Side[] = []
  const guest = createGuestMonitor()
  const listen = (text: string) => guest.push(text)
  const lastLine = () =>
    guest.text
      .trimEnd()
      .split(/\r?\n/)
      .findLast((l) => l.startsWith('T '))
  try {
    console.log(
      'Machine A boots the embedded guest: it counts, dirties memory and does checksummed disk I/O through VT-d.',
    )
    let from = await startSide('A', folder, disk, listen, undefined)
    sides.push(from)
    await guest.until((g) => g.lines >= 10, 30_000)
    console.log(`  ${lastLine()}`)

    for (let n = 0; n < options.migrations; n++) {
      const to = await startSide(n % 2 === 0 ? 'B' : 'A', folder, disk, listen, 'tcp:127.0.0.1:0')
      sides.push(to)
      const [address] = (await to.qmp.execute('query-migrate'))['socket-address']
      console.log(
        `\nMachine ${to.name} (another process) waits at tcp:${address.host}:${address.port}. Moving the guest, live:`,
      )
      await migrate(from, to, `tcp:${address.host}:${address.port}`, options.maxBandwidth)
      if (n === 0) printOrder(to)
      const seen = guest.lines
      await guest.until((g) => g.lines > seen + 10, 20_000)
      console.log(`  ${lastLine()}`)
      await from.qmp.execute('quit')
      await from.exited
      from = to
    }

    console.log('\nAsking the guest to verify everything it ever wrote:')
    from.type('q')
    await guest.until((g) => g.verdicts.length > 0, 60_000)
    await from.exited
    const verdict = guest.verdicts[0]!
    console.log(`  ${verdict.text}`)
    for (const problem of guest.problems) console.log(`  console: ${problem}`)
    const good = verdict.ok && guest.problems.length === 0
    console.log(
      good
        ? `\nVERDICT: ${guest.lines} lines of output across ${sides.length} processes, nothing lost, nothing repeated.`
        : '\nVERDICT: the guest noticed the move.',
    )
    return good ? 0 : 1
  } finally {
    for (const side of sides) side.kill()
    rmSync(folder, { recursive: true, force: true })
  }
}

async function startSide(
  name: string,
  folder: string,
  disk: string,
  listen: (text: string) => void,
  incoming: string | undefined,
): Promise<Side> {
  const socket = join(folder, `${name}-${performance.now()}.qmp`)
  const options = [
    ...['run', '-m', '128M', '-guest', 'dirtyBytes=32M,dirtyBytesPerSecond=6M', '-device', 'intel-iommu'],
    ...[
      '-drive',
      `file=${disk},if=none,id=hd0`,
      '-device',
      'virtio-blk-pci,drive=hd0,disable-legacy=on,iommu_platform=on',
    ],
    ...['-serial', 'stdio', '-qmp', `unix:${socket},server=on,wait=off`, '-report-sections'],
    ...(incoming ? ['-incoming', incoming] : []),
  ]
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, ...options], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  child.stdout.setEncoding('utf8').on('data', listen)
  const loaded: Side['loaded'] = []
  let complaints = ''
  let partial = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    const lines = (partial + text).split('\n')
    partial = lines.pop()!
    for (const line of lines) {
      if (line.startsWith('{"section"')) {
        const { section, direction } = JSON.parse(line)
        if (direction === 'load') loaded.push(section)
      } else complaints += `${line}\n`
    }
  })
  const exited = new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? 1)))
  child.stdin.on('error', () => {})
  const early = exited.then((code) => {
    throw new Error(`machine ${name} ended with status ${code}\n${complaints}`)
  })
  early.catch(() => {})
  const qmp = await Promise.race([QmpClient.connect(socket), early])
  return { name, qmp, loaded, exited, type: (text) => void child.stdin.write(text), kill: () => void child.kill() }
}

async function migrate(from: Side, to: Side, uri: string, maxBandwidth: number): Promise<void> {
  await from.qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })
  await from.qmp.execute('migrate-set-parameters', { 'max-bandwidth': maxBandwidth })
  const bar = new cliProgress.SingleBar({
    format: '  {bar} {percentage}% | {mbps} Mbit/s | {remaining} MiB left | dirtying {dirty} MiB/s | {forecast}',
    hideCursor: true,
    noTTYOutput: !process.stderr.isTTY,
    notTTYSchedule: 500,
  })
  const started = performance.now()
  await from.qmp.execute('migrate', { uri })
  let total = 0
  let forecast = ''
  for (;;) {
    const info = await from.qmp.execute('query-migrate')
    forecast = (await from.qmp.execute('x-query-migrate-forecast')).sentence ?? forecast
    if (info.ram) {
      const { ram } = info
      const facts = {
        mbps: ram.mbps.toFixed(0),
        remaining: (ram.remaining / MiB).toFixed(1),
        dirty: ((ram['dirty-pages-rate'] * ram['page-size']) / MiB).toFixed(1),
        forecast,
      }
      if (total === 0) bar.start((total = ram.total), 0, facts)
      bar.update(ram.total - ram.remaining, facts)
    }
    if (info.status === 'completed') {
      bar.stop()
      await until(
        async () => (await to.qmp.execute('query-status')).status === 'running',
        20_000,
        `machine ${to.name} does not run`,
      )
      const seconds = ((performance.now() - started) / 1000).toFixed(1)
      console.log(`  moved in ${seconds} s; the guest stood still for ${info.downtime} ms`)
      return
    }
    if (info.status === 'failed' || info.status === 'cancelled') {
      bar.stop()
      throw new Error(`migration ${info.status}: ${info['error-desc'] ?? ''}`)
    }
    await delay(50)
  }
}

/** The point of it all: the IOMMU is loaded before the PCI devices that need it while they load. */
function printOrder(side: Side): void {
  console.log(`\nMachine ${side.name} loaded the sections in this order:`)
  console.log('  priority  section')
  for (const { idstr, instanceId, priority } of side.loaded) {
    const note =
      idstr === 'iommu-intel'
        ? '   <- holds the DMA translations'
        : idstr.endsWith('/virtio-blk')
          ? '   <- needs them to find its rings'
          : ''
    console.log(`  ${String(priority).padStart(8)}  ${idstr}/${instanceId}${note}`)
  }
  console.log()
}

async function until(condition: () => boolean | Promise<boolean>, timeoutMs: number, complaint: string): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`${complaint} within ${timeoutMs / 1000} s`)
    await delay(20)
  }
}
