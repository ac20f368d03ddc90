import type { Emulator, GuestFiles } from './linux-machine.ts'
import type { CpuBenchOptions } from './options.ts'

/** What a section of `bench cpu` needs. */
export interface Bench {
  readonly options: CpuBenchOptions
  readonly files: GuestFiles
  /** For sockets and images. */
  readonly folder: string
  /** Emu, as often as there are accelerators to measure. */
  readonly subjects: readonly Emulator[]
  /** Stock QEMU. */
  readonly reference: Emulator
  readonly report: (line: string) => void
}

/** What `--json` writes, section by section. */
export type Results = Record<string, unknown>
