/** One guest, kept alive by `emu colo` while its machines are killed one after the other. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor } from '@ferryvm/embedded-guest'
import { main } from '../harness/emu.ts'
import { createDisk } from '../harness/vm.ts'

export interface ChainOutcome {
  readonly kills: { primary: number; secondary: number }
  /** From the kill to the first line of the survivor, ms. */
  readonly takeoverMs: readonly number[]
  /** Lines that were held by a primary when it died, though their checkpoint was safe: nobody ever saw them. */
  readonly unseenLines: number
}

interface Side {
  readonly name: string
  readonly pid: number
  readonly serial: Socket
}

const TAKEOVER_MS = 60_000

/**
 * @param kills how many machines are killed with SIGKILL, each at a random moment, primary and secondary by chance
 * @throws what the guest complains about, a line that came twice, two machines that run, or none
 */
export async function chainOfKills(kills: number, report: (line: string) => void = () => {}): Promise<ChainOutcome> {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-kills-'))
  const disk = createDisk(join(folder, 'disk.img'), 8 * 2 ** 20)
  const dir = join(folder, 'colo')
  let first = 0
  const guest = createGuestMonitor({ onLine: ({ n }) => void (first ||= n) })
  const outcome = { kills: { primary: 0, secondary: 0 }, takeoverMs: [] as number[], unseenLines: 0 }
  const sides = new Map<string, Side>()

  async function up(args: readonly string[]): Promise<void> {
    await emu('colo', 'up', '--dir', dir, '--checkpoint-delay', '50', '--heartbeat-timeout', '5000', ...args)
    const state = JSON.parse(readFileSync(join(dir, 'colo.json'), 'utf8')) as { sides: { name: string; pid: number }[] }
    for (const { name, pid } of state.sides) {
      if (sides.get(name)?.pid === pid) continue
      const serial = connect(join(dir, `${name}.serial`))
      serial.on('data', (text) => guest.push(text)).on('error', () => {})
      sides.set(name, { name, pid, serial })
    }
  }
  const roles = async () => {
    const text = await emu('colo', 'status', '--dir', dir)
    return new Map([...text.matchAll(/^(\S+) {2}(gone|primary|secondary|alone)/gm)].map((m) => [m[1]!, m[2]!]))
  }
  const sane = () => {
    const bad = guest.problems.filter((problem) => !problem.startsWith('lost: ') && !problem.startsWith('garbled'))
    if (bad.length > 0) throw new Error(`the guest, or its output: ${bad.join(' | ')}`)
  }

  try {
    await up([
      ...['--', '-m', '32M', '-guest', 'dirtyBytes=4M,dirtyBytesPerSecond=4M,linesPerSecond=50'],
      ...['-device', 'intel-iommu', '-drive', `file=${disk},if=none,id=hd`],
      ...['-device', 'virtio-blk-pci,drive=hd,disable-legacy=on,iommu_platform=on'],
      ...['-serial', `unix:${join(dir, '{name}.serial')},server=on,wait=off`],
    ])
    for (let n = 0; n < kills; n++) {
      const began = guest.lines
      await guest.until((g) => g.lines > began + 3, TAKEOVER_MS)
      await delay(Math.random() * 300)
      const before = await roles()
      const role = Math.random() < 0.5 ? 'primary' : 'secondary'
      const victim = [...before].find(([, r]) => r === role)
      if (!victim) throw new Error(`there is no ${role}: ${JSON.stringify([...before])}`)
      const lines = guest.lines
      const at = performance.now()
      process.kill(sides.get(victim[0])!.pid, 'SIGKILL')
      await guest.until((g) => g.lines > lines + 10, TAKEOVER_MS)
      outcome.takeoverMs.push(performance.now() - at)
      outcome.kills[role]++
      sane()
      const after = [...(await roles()).values()].sort().join(' ')
      if (after !== 'alone gone') throw new Error(`after the kill of the ${role} there is: ${after}`)
      report(`${n + 1} of ${kills}: the ${role} was killed, ${guest.lines} lines so far`)
      if (n + 1 < kills) await up([])
    }
    for (const { serial } of sides.values()) if (!serial.destroyed) serial.write('q')
    await guest.until((g) => g.verdicts.length > 0, TAKEOVER_MS)
    const verdict = guest.verdicts[0]!
    if (!verdict.ok) throw new Error(verdict.text)
    sane()
    return { ...outcome, unseenLines: verdict.lines - (first - 1) - guest.lines }
  } catch (error) {
    const logs = [...sides.keys()].map((name) => `${name}: ${readFileSync(join(dir, `${name}.log`), 'utf8')}`)
    throw new Error(`${(error as Error).message}\n${logs.join('\n')}`, { cause: error })
  } finally {
    await emu('colo', 'down', '--dir', dir).catch(() => {})
    for (const { serial } of sides.values()) serial.destroy()
    rmSync(folder, { recursive: true, force: true })
  }
}

/** @returns stdout @throws what it said, when it failed */
function emu(...args: string[]): Promise<string> {
  const child: ChildProcess = spawn(
    process.execPath,
    ['--conditions=source', '--disable-warning=ExperimentalWarning', main, ...args],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let [out, err] = ['', '']
  child.stdout!.on('data', (text) => {
    out += text
  })
  child.stderr!.on('data', (text) => {
    err += text
  })
  return new Promise((resolve, reject) =>
    child.once('close', (code) => (code === 0 ? resolve(out) : reject(new Error(`emu ${args.join(' ')}: ${err}`)))),
  )
}
