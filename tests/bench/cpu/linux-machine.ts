/** A Linux guest with the benchmark programs, in a process of `emu` or of stock QEMU: both get the same options. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { main } from '../../harness/emu.ts'
import { speakQmp } from '../../stock-qemu/stock-qemu.ts'
import { threadTimes, timeBetween } from './thread-times.ts'

/** The shell's, perhaps with the question for the cursor's place that busybox's line editor asks. */
const PROMPT = /# (.\[6n)?$/
/** What this script's loop in the guest prints when a line is done. */
const DONE = '--done--\r\n'
/** Reads lines without the line editor, so that nothing is echoed and the end of each one is certain. */
const LOOP = "stty -echo; PATH=/bench:$PATH; while echo '--do''ne--'; read -r line; do eval \"$line\"; done"
const MAX_TEXT = 1 << 16

/** An emulator to measure. */
export interface Emulator {
  readonly name: string
  readonly command: string
  readonly args: readonly string[]
}

/** @param accel for `-accel`; undefined: the default */
export function ours(accel?: string): Emulator {
  return {
    name: accel ? `emu ${accel}` : 'emu',
    command: process.execPath,
    args: [
      '--conditions=source',
      '--disable-warning=ExperimentalWarning',
      main,
      'run',
      ...(accel ? ['-accel', accel] : []),
    ],
  }
}

export const stockQemu = (command: string): Emulator => ({ name: 'stock QEMU', command, args: [] })

export interface GuestFiles {
  readonly bios: string
  readonly kernel: string
  readonly initrd: string
}

/** One run of a program. */
export interface ProgramTime {
  readonly checksum: number
  /** By the guest's monotonic clock. */
  readonly guestSeconds: number
  /** Between the two lines that the program prints, by the host's clock. */
  readonly hostSeconds: number
  /** CPU time of all of the emulator's threads between these lines: what a busy host does not change. */
  readonly cpuSeconds: number
  /** And of its busiest thread, which is the hart's. */
  readonly hartSeconds: number
}

/** What a guest did is not what it was asked to. */
export class GuestError extends Error {
  override readonly name = 'GuestError'
}

/** What a busy host and the serial port may put between the two clocks in one run; over all runs it must come to less. */
const RUN_TOLERANCE = { part: 0.1, seconds: 1 }
const SESSION_TOLERANCE = { part: 0.03, seconds: 0.5 }

function disagree(guest: number, host: number, { part, seconds }: typeof RUN_TOLERANCE): boolean {
  return Math.abs(guest - host) > seconds + part * host
}

export class LinuxMachine implements AsyncDisposable {
  readonly name: string
  /** From the start of the process to the shell's prompt. */
  readonly bootSeconds: number
  readonly #child: ChildProcess
  readonly #console: ConsoleText
  readonly #qmpPath: string
  #qmp: Promise<Socket> | undefined
  #speak: ReturnType<typeof speakQmp> | undefined
  #since = { uptime: 0, at: 0 }

  private constructor(name: string, child: ChildProcess, text: ConsoleText, qmpPath: string, bootSeconds: number) {
    this.name = name
    this.#child = child
    this.#console = text
    this.#qmpPath = qmpPath
    this.bootSeconds = bootSeconds
  }

  /**
   * Boots to the prompt.
   * @param folder for its sockets
   * @throws GuestError it ended or stayed silent
   */
  static async boot(
    emulator: Emulator,
    files: GuestFiles,
    folder: string,
    { ramMiB = 256, harts = 1, timeoutMs = 120_000 } = {},
  ): Promise<LinuxMachine> {
    const qmpPath = join(folder, `qmp-${++started}.sock`)
    const options = [
      ...['-M', 'virt', '-m', `${ramMiB}M`, '-smp', String(harts), '-display', 'none'],
      ...['-serial', 'stdio', '-monitor', 'none', '-qmp', `unix:${qmpPath},server=on,wait=off`],
      ...['-bios', files.bios, '-kernel', files.kernel, '-initrd', files.initrd, '-append', 'console=ttyS0 quiet'],
    ]
    const began = performance.now()
    const child = spawn(emulator.command, [...emulator.args, ...options], { stdio: ['pipe', 'pipe', 'pipe'] })
    const text = new ConsoleText(emulator.name, child)
    try {
      await text.until((t) => PROMPT.test(t), timeoutMs)
      const bootSeconds = (performance.now() - began) / 1000
      const machine = new LinuxMachine(emulator.name, child, text, qmpPath, bootSeconds)
      // What is typed before the loop reads it may be lost: the line editor has a buffer of its own.
      await machine.shell(LOOP)
      machine.#since = await machine.#uptime()
      return machine
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
  }

  /** Types a line and waits until it is done. @returns what was printed */
  async shell(line: string, timeoutMs = 60_000): Promise<string> {
    this.#console.forget()
    this.#child.stdin!.write(`${line}\n`)
    await this.#console.until((t) => t.endsWith(DONE), timeoutMs)
    return this.#console.text.slice(0, -DONE.length)
  }

  /** Runs a program that prints `begin` and `end`. @throws GuestError it did not print them, or the clocks disagree */
  async run(program: string, line: string, timeoutMs = 120_000): Promise<ProgramTime> {
    const look = () => ({ at: performance.now(), threads: threadTimes(this.#child.pid!) })
    let began: ReturnType<typeof look> | undefined
    let ended: ReturnType<typeof look> | undefined
    const watch = (text: string) => {
      if (!began && text.includes(`begin ${program} `)) began = look()
      if (!ended && /^end /m.test(text)) ended = look()
    }
    const said = await this.#console.watched(watch, () => this.shell(line, timeoutMs))
    const found = new RegExp(`^end ${program} \\d+ (\\d+) (\\d+)\\r?$`, 'm').exec(said)
    if (!found || !began || !ended)
      throw new GuestError(`${this.name}: ${JSON.stringify(said.slice(-300))} in answer to ${line}`)
    const cpu = timeBetween(began.threads, ended.threads)
    const time = {
      checksum: Number(found[1]),
      guestSeconds: Number(found[2]) / 1e9,
      hostSeconds: (ended.at - began.at) / 1000,
      cpuSeconds: cpu.all,
      hartSeconds: cpu.busiest,
    }
    if (disagree(time.guestSeconds, time.hostSeconds, RUN_TOLERANCE))
      throw new GuestError(`${this.name}, ${program}: ${clocks(time.guestSeconds, time.hostSeconds)}`)
    return time
  }

  /**
   * Holds the guest's clock beside the host's over all that happened since the boot.
   * @returns how they compare, in words
   * @throws GuestError they disagree
   */
  async checkClock(): Promise<string> {
    const { uptime, at } = await this.#uptime()
    const [guest, host] = [uptime - this.#since.uptime, at - this.#since.at]
    if (disagree(guest, host, SESSION_TOLERANCE)) throw new GuestError(`${this.name}: ${clocks(guest, host)}`)
    return `${this.name}: ${clocks(guest, host)}`
  }

  async #uptime(): Promise<{ uptime: number; at: number }> {
    const uptime = Number.parseFloat(await this.shell('cat /proc/uptime'))
    return { uptime, at: performance.now() / 1000 }
  }

  /** One QMP command; its `return`. */
  async qmp(execute: string, parameters?: Record<string, unknown>): Promise<any> {
    this.#qmp ??= (async () => {
      const socket = connect(this.#qmpPath)
      await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
      this.#speak = speakQmp(socket)
      await this.#speak('qmp_capabilities')
      return socket
    })()
    await this.#qmp
    return this.#speak!(execute, parameters)
  }

  /** The most that the process had in memory at any time, and has now. Linux only. */
  get residentBytes(): { peak: number; now: number } {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8')
    const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024
    return { peak: kib('VmHWM'), now: kib('VmRSS') }
  }

  /** Exit status, or the name of the signal that ended it. */
  get exited(): Promise<number | string> {
    return this.#console.exited
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qmp?.then(
      (socket) => socket.destroy(),
      () => {},
    )
    this.#child.kill('SIGKILL')
    await this.exited
  }
}

const clocks = (guest: number, host: number) =>
  `${guest.toFixed(2)} s by the guest's clock, ${host.toFixed(2)} s by the host's`

let started = 0

/** What a guest printed since it was last asked to do something. */
class ConsoleText {
  text = ''
  readonly exited: Promise<number | string>
  readonly #who: string
  #ended: string | undefined
  #wake = () => {}
  #watch: (text: string) => void = () => {}

  constructor(who: string, child: ChildProcess) {
    this.#who = who
    let stderr = ''
    child.stdout!.setEncoding('latin1').on('data', (chunk: string) => {
      this.text = (this.text + chunk).slice(-MAX_TEXT)
      this.#watch(this.text)
      this.#wake()
    })
    child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
      stderr = (stderr + chunk).slice(-2000)
    })
    child.stdin!.on('error', () => {})
    this.exited = new Promise((resolve) => {
      const end = (status: number | string, how: string) => {
        this.#ended ??= how
        this.#wake()
        resolve(status)
      }
      child.on('error', (error) => end(error.message, error.message))
      child.on('close', (code, signal) => {
        const status = code ?? signal ?? 'unknown'
        end(status, `ended with ${status}: ${stderr}`)
      })
    })
  }

  forget(): void {
    this.text = ''
  }

  /** @param watch told about every change of the text while `during` runs */
  async watched<T>(watch: (text: string) => void, during: () => Promise<T>): Promise<T> {
    this.#watch = watch
    try {
      return await during()
    } finally {
      this.#watch = () => {}
    }
  }

  async until(done: (text: string) => boolean, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      if (done(this.text)) return
      if (this.#ended !== undefined) throw new GuestError(`${this.#who} ${this.#ended}`)
      const left = deadline - performance.now()
      if (left <= 0)
        throw new GuestError(`${this.#who}: nothing for ${timeoutMs / 1000} s; the guest said ${this.text.slice(-600)}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }
}
