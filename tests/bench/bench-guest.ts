/** Drives the benchmark guest of `programs/` on our machine and on stock QEMU. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createVm, type TestVm } from '../harness/vm.ts'
import { startStockQemu } from '../stock-qemu/stock-qemu.ts'
import { imageBase64 } from './programs/image-data.ts'

export const benchImage = Buffer.from(imageBase64, 'base64')

/** What the guest answers to one command. */
export interface ProgramRun {
  readonly checksum: number
  /** By the guest's own clock, 10 MHz. */
  readonly seconds: number
  /** minstret: exact on our machine, host time on stock QEMU. */
  readonly instructions: number
}

/** What the program `pace` says every 100 ms. */
export interface Pace {
  /** When it came, ms of this process's clock. */
  readonly atMs: number
  /** Of the guest's clock, 10 MHz. */
  readonly ticks: number
  readonly work: number
  readonly pages: number
}

/** The console of a benchmark guest, wherever it runs. */
export class BenchConsole {
  /** Sends to the guest; changes when the guest moves. */
  type: (text: string) => void
  readonly paces: Pace[] = []
  readonly #lines: string[] = []
  /** Of a line that has not ended. */
  #text = ''
  #wake = () => {}

  constructor(type: (text: string) => void) {
    this.type = type
  }

  push(text: string): void {
    const lines = (this.#text + text).split('\n')
    this.#text = lines.pop()!
    for (const line of lines) {
      if (!line.startsWith('+')) {
        this.#lines.push(line.trim())
        continue
      }
      const [ticks, work, pages] = line.slice(1).split(' ').map(Number) as [number, number, number]
      this.paces.push({ atMs: performance.now(), ticks, work, pages })
    }
    this.#wake()
  }

  async ready(): Promise<void> {
    while ((await this.line(30_000)) !== 'ready') {}
  }

  /** Runs a program and waits for its end. @throws Error no answer in time, or a strange one */
  async run(program: string, n: number, timeoutMs = 60_000): Promise<ProgramRun> {
    this.start(program, n)
    return this.ended(program, timeoutMs)
  }

  start(program: string, n: number): void {
    this.type(`${program} ${n}\n`)
  }

  /** Ends a program that runs until something is typed. */
  interrupt(): void {
    this.type(' ')
  }

  async ended(program: string, timeoutMs = 60_000): Promise<ProgramRun> {
    const line = await this.line(timeoutMs)
    const [name, , checksum, ticks, instructions, ...rest] = line.replace(/^\.*/, '').split(' ')
    if (name !== program || rest.length > 0 || instructions === undefined)
      throw new Error(`the benchmark guest answered ${JSON.stringify(line)} to ${program}`)
    return { checksum: Number(checksum), seconds: Number(ticks) / 1e7, instructions: Number(instructions) }
  }

  /** The next line that nobody has taken. @throws Error the guest is silent */
  async line(timeoutMs: number): Promise<string> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const line = this.#lines.shift()
      if (line !== undefined) return line
      const left = deadline - performance.now()
      if (left <= 0) throw new Error(`the benchmark guest is silent; it last said ${JSON.stringify(this.#text)}`)
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

export interface BenchMachine extends AsyncDisposable {
  readonly console: BenchConsole
}

export async function startOurs(ramBytes = 128 * 2 ** 20): Promise<BenchMachine & { readonly vm: TestVm }> {
  const console_: BenchConsole = new BenchConsole((text) => vm.type(text))
  const vm = await createVm({ kernel: benchImage, ramBytes, onOutput: (text) => console_.push(text) })
  vm.machine.start()
  await console_.ready()
  return { vm, console: console_, [Symbol.asyncDispose]: () => vm[Symbol.asyncDispose]() }
}

/** @param folder for its image and sockets */
export async function startStock(folder: string, ramMiB = 128): Promise<BenchMachine> {
  const image = join(folder, 'bench.bin')
  writeFileSync(image, benchImage)
  const console_: BenchConsole = new BenchConsole((text) => qemu.type(text))
  const qemu = await startStockQemu(
    folder,
    ['-M', 'virt', '-m', `${ramMiB}M`, '-bios', 'none', '-kernel', image],
    (chunk) => console_.push(String(chunk)),
  )
  await console_.ready()
  return { console: console_, [Symbol.asyncDispose]: () => qemu.kill() }
}
