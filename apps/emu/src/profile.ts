import { type FileHandle, open, readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import type { Machine } from '@ferryvm/core'
import {
  addKallsyms,
  addSymbols,
  createProfiler,
  hasSymbols,
  type Profile,
  type Profiler,
  SymbolTable,
  speedscopeFile,
} from '@ferryvm/machine'
import type { RunOptions, SymbolsOption } from './run-options.ts'
import { UsageError } from './usage-error.ts'

/** `-profile FILE`: what the harts did while the machine ran, for speedscope. */
export class ProfileFile {
  readonly #path: string
  readonly #handle: FileHandle
  readonly #symbols: SymbolTable
  #machine: Machine | undefined
  #profiler: Profiler | undefined

  private constructor(path: string, handle: FileHandle, symbols: SymbolTable) {
    this.#path = path
    this.#handle = handle
    this.#symbols = symbols
  }

  /**
   * Opens the file and reads the symbols, before anything else of the machine.
   * @returns undefined: no profile was asked for
   * @throws UsageError the file cannot be written, or symbols cannot be read
   */
  static async open(options: RunOptions): Promise<ProfileFile | undefined> {
    const { profile: path, symbols, kernel, bios } = options
    if (path === undefined) {
      if (symbols.length > 0) throw new UsageError(`-symbols ${symbols[0].file}: needs -profile`)
      return undefined
    }
    const table = new SymbolTable()
    for (const option of symbols) await readSymbols(table, option)
    for (const file of [kernel, bios]) {
      if (file === undefined || file === 'none') continue
      // A file that is missing is refused where it is loaded.
      const bytes = await readFile(file).catch(() => undefined)
      if (bytes && hasSymbols(bytes)) addSymbols(table, basename(file), bytes)
    }
    const handle = await open(path, 'w').catch((cause: Error) => {
      throw new UsageError(`-profile ${path}: ${cause.message}`, { cause })
    })
    return new ProfileFile(path, handle, table)
  }

  /** @param machine before it starts */
  start(machine: Machine): void {
    this.#machine = machine
    this.#profiler = createProfiler({ machine })
  }

  /** Writes the file. @returns why it could not be written */
  async finish(): Promise<string | undefined> {
    try {
      if (this.#profiler) {
        const profile = this.#profiler.stop()
        if (this.#lacksKernel(profile)) this.#askKernel()
        const file = speedscopeFile(profile, this.#symbols, basename(this.#path))
        await this.#handle.writeFile(JSON.stringify(file))
      }
      await this.#handle.close()
      return undefined
    } catch (error) {
      return `-profile ${this.#path}: ${(error as Error).message}`
    }
  }

  #lacksKernel({ places }: Profile): boolean {
    return places.some(
      (p) => typeof p === 'object' && p.mode === S_MODE && p.pc >= UPPER_HALF && !this.#symbols.find(p.pc),
    )
  }

  /** A Linux guest has its symbols in its memory. */
  #askKernel(): void {
    const { memory, cpu } = this.#machine!
    const [ram] = [...memory.blocks].sort((a, b) => b.sizeBytes - a.sizeBytes)
    addKallsyms(this.#symbols, ram.bytes, cpu.readRegister(0, 'stvec'))
  }
}

/** Where kernels have their addresses. */
const UPPER_HALF = 1n << 63n
const S_MODE = 1

async function readSymbols(table: SymbolTable, { file, offset }: SymbolsOption): Promise<void> {
  const bytes = await readFile(file).catch((cause: Error) => {
    throw new UsageError(`-symbols ${file}: ${cause.message}`, { cause })
  })
  addSymbols(table, basename(file), bytes, offset)
}
