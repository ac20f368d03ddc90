import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { StockQemuBinary } from './stock-10.ts'
import { stockQemuCommand } from './stock-qemu.ts'

const SUFFIX = { 1: 'b', 2: 'w', 4: 'l', 8: 'q' } as const
/** Of an access, bytes. */
export type AccessSize = 1 | 2 | 4

const BARE = ['-m', '16M', '-bios', 'none', '-nodefaults', '-display', 'none', '-S', '-serial', 'null']

/** Stock's `virt` machine without a running CPU: every access to a register is a line of its qtest protocol. */
export class Qtest {
  readonly #child: ChildProcess
  readonly #waiting: ((line: string) => void)[] = []

  constructor(
    options: readonly string[],
    { command, args, env }: StockQemuBinary = { command: stockQemuCommand, args: [], env: {} },
  ) {
    this.#child = spawn(command, [...args, ...BARE, '-qtest', 'stdio', '-qtest-log', 'none', ...options], {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: { ...process.env, ...env },
    })
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      if (line.startsWith('OK') || line.startsWith('FAIL')) this.#waiting.shift()?.(line)
    })
  }

  #ask(line: string): Promise<string> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve)
      this.#child.stdin!.write(`${line}\n`)
    })
  }

  async readBits(address: number, size: AccessSize | 8): Promise<bigint> {
    return BigInt((await this.#ask(`read${SUFFIX[size]} 0x${address.toString(16)}`)).split(' ')[1]!)
  }

  async read(address: number, size: AccessSize): Promise<number> {
    return Number(await this.readBits(address, size))
  }

  async write(address: number, value: number, size: AccessSize): Promise<void> {
    await this.#ask(`write${SUFFIX[size]} 0x${address.toString(16)} 0x${(value >>> 0).toString(16)}`)
  }

  close(): void {
    this.#child.kill('SIGKILL')
  }
}
