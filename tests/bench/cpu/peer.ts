/**
 * A JavaScript peer: v86, which compiles x86 to WebAssembly. It gets the same C programs, built for a PC without an operating system;
 * emu gets the bare-metal image of `../bench-guest.ts`. Speeds are in guest instructions: minstret there, v86's own counter here,
 * which for this image equals what stock QEMU counts with `-icount shift=0` (the time-stamp counter) to the instruction.
 */
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { V86 } from 'v86'
import { BenchConsole, benchImage } from '../bench-guest.ts'
import type { Bench, Results } from './bench.ts'
import { type Emulator, GuestError } from './linux-machine.ts'
import { geometricMean, spread } from './statistics.ts'
import { threadTimes, timeBetween } from './thread-times.ts'

const build = resolve(import.meta.dirname, '../programs/x86/build.sh')
const COMPILER = process.env.X86_CC ?? 'gcc'
const RAM_BYTES = 128 * 2 ** 20
/** x86 of this kind has no fused multiply-add. */
const LACKING = 'nbody'

interface PeerRun {
  readonly checksum: number
  readonly instructions: number
  /** Of the host's clock. */
  readonly seconds: number
  /** CPU time of the process that emulates, all its threads. */
  readonly cpuSeconds: number
}

interface PeerMachine extends AsyncDisposable {
  readonly name: string
  run(program: string, n: number): Promise<PeerRun>
}

/** @throws GuestError the image does not build, or results differ between x86 and RISC-V */
export async function measurePeer({ options, folder, subjects, report }: Bench): Promise<Results> {
  const programs = options.programs.filter((p) => p.group === 'compute' && !p.command && p.name !== LACKING)
  if (programs.length === 0) throw new GuestError('--peer v86: none of these programs runs without Linux')
  const results: Results = {}
  await using peer = await startV86(buildX86(folder))
  for (const subject of subjects) {
    await using mine = await startBare(subject, folder)
    const ratios: { mips: number; cpu: number; time: number }[] = []
    const rows: Record<string, { mine: PeerRun[]; peer: PeerRun[] }> = {}
    for (const { name, n: amount, what } of programs) {
      const n = Math.max(1, Math.round(amount * options.scale))
      const runs = { mine: [] as PeerRun[], peer: [] as PeerRun[] }
      for (let i = 0; i < options.repeat; i++) {
        runs.mine.push(await mine.run(name, n))
        runs.peer.push(await peer.run(name, n))
      }
      const checksums = new Set([...runs.mine, ...runs.peer].map((run) => run.checksum))
      if (checksums.size !== 1) throw new GuestError(`${name}: different results: ${[...checksums].join(', ')}`)
      const median = (of: (run: PeerRun, other: PeerRun) => number) =>
        spread(runs.mine.map((run, i) => of(run, runs.peer[i]))).median
      const ratio = {
        mips: median((a, b) => a.instructions / a.seconds / (b.instructions / b.seconds)),
        cpu: median((a, b) => a.instructions / a.cpuSeconds / (b.instructions / b.cpuSeconds)),
        time: median((a, b) => b.seconds / a.seconds),
      }
      ratios.push(ratio)
      const mips = (these: readonly PeerRun[]) =>
        spread(these.map((run) => run.instructions / run.seconds / 1e6))
          .median.toFixed(0)
          .padStart(5)
      report(
        `${subject.name}: ${name.padEnd(14)}${mips(runs.mine)} MIPS, v86 ${mips(runs.peer)} MIPS: ${ratio.mips.toFixed(2)}x ` +
          `(by CPU time ${ratio.cpu.toFixed(2)}); the same work in ${(1 / ratio.time).toFixed(2)} of the time  ${what}`,
      )
      rows[name] = runs
    }
    const mean = (of: (ratio: (typeof ratios)[number]) => number) => geometricMean(ratios.map(of)).toFixed(2)
    report(
      `${subject.name}: geometric mean ${mean((r) => r.mips)}x the MIPS of v86 (by CPU time ${mean((r) => r.cpu)}), ` +
        `${mean((r) => r.time)}x its speed on the same C programs`,
    )
    results[subject.name] = rows
  }
  return results
}

/** Why the image cannot be built here, in a line; undefined when it can. */
export function peerMissing(): string | undefined {
  const flags = ['-m32', '-ffreestanding', '-xc', '-', '-c', '-o', '/dev/null']
  const { status } = spawnSync(COMPILER, flags, { input: 'int f(void) { return 0; }' })
  return status === 0 ? undefined : `${COMPILER} does not build for x86 (-m32)`
}

function buildX86(folder: string): Uint8Array {
  const image = join(folder, 'bench.x86')
  const { status, stderr, error } = spawnSync(build, [image], { encoding: 'utf8' })
  if (status !== 0)
    throw new GuestError(`--peer v86: the programs do not build for x86 (gcc -m32): ${error?.message ?? stderr}`)
  return readFileSync(image)
}

async function startBare(emulator: Emulator, folder: string): Promise<PeerMachine> {
  const image = join(folder, 'bench.bin')
  writeFileSync(image, benchImage)
  const options = ['-M', 'virt', '-m', '128M', '-bios', 'none', '-kernel', image]
  const child = spawn(
    emulator.command,
    [...emulator.args, ...options, '-display', 'none', '-serial', 'stdio', '-monitor', 'none'],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  const guest = new BenchConsole((text) => void child.stdin.write(text))
  child.stdout.on('data', (chunk) => guest.push(String(chunk)))
  child.stdin.on('error', () => {})
  const exited = new Promise((done) => child.once('close', done))
  const stop = async () => {
    child.kill('SIGKILL')
    await exited
  }
  try {
    await guest.ready()
  } catch (error) {
    await stop()
    throw error
  }
  return {
    name: emulator.name,
    async run(program, n) {
      const before = threadTimes(child.pid!)
      const { checksum, instructions, seconds } = await guest.run(program, n, 120_000)
      const cpu = timeBetween(before, threadTimes(child.pid!))
      return { checksum, instructions, seconds, cpuSeconds: cpu.all }
    },
    [Symbol.asyncDispose]: stop,
  }
}

/** In this process: its loop runs on our thread, so the marks that the guest prints are timed where they are printed. */
async function startV86(image: Uint8Array): Promise<PeerMachine> {
  const folder = join(createRequire(import.meta.url).resolve('v86'), '..')
  const machine = new V86({
    wasm_path: join(folder, 'v86.wasm'),
    multiboot: { buffer: image.slice().buffer },
    memory_size: RAM_BYTES,
    autostart: true,
    disable_speaker: true,
  })
  let line = ''
  let wake: (line: string) => void = () => {}
  let marks: { at: number; instructions: number; threads: ReturnType<typeof threadTimes> }[] = []
  machine.add_listener('serial0-output-byte', (byte: number) => {
    const c = String.fromCharCode(byte)
    if (c === '<' || c === '>') {
      const instructions = machine.get_instruction_counter()
      marks.push({ at: performance.now(), instructions, threads: threadTimes(process.pid) })
    } else if (c === '\n') {
      const done = line
      line = ''
      wake(done)
    } else if (c !== '\r') line += c
  })
  const nextLine = () =>
    new Promise<string>((done, fail) => {
      const timer = setTimeout(() => fail(new GuestError('v86: the guest is silent')), 120_000)
      wake = (text) => {
        clearTimeout(timer)
        done(text)
      }
    })
  while ((await nextLine()) !== 'ready') {}
  await machine.stop()
  return {
    name: 'v86',
    async run(program, n) {
      marks = []
      const answer = nextLine()
      await machine.run()
      machine.serial0_send(`${program} ${n}\n`)
      const [name, , checksum] = (await answer).split(' ')
      // While it waits for a line it spins: not beside somebody else's measurement.
      await machine.stop()
      const [began, ended] = marks
      if (name !== program || !began || !ended) throw new GuestError(`v86: ${name} in answer to ${program}`)
      return {
        checksum: Number(checksum),
        instructions: (ended.instructions - began.instructions) >>> 0,
        seconds: (ended.at - began.at) / 1000,
        cpuSeconds: timeBetween(began.threads, ended.threads).all,
      }
    },
    async [Symbol.asyncDispose]() {
      await machine.destroy()
    },
  }
}
