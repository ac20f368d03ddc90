/** What machine.chromium.test.ts loads into a page: a whole board, and what it did. */
import { virtBoard } from '@ferryvm/board-virt'
import type { Accelerator } from '@ferryvm/cpu-riscv'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { createMachine } from '@ferryvm/machine'

export interface PageRun {
  readonly lines: number
  readonly verdict: { readonly ok: boolean; readonly errors: number } | undefined
  readonly problems: readonly string[]
  readonly compiler: string
  readonly status: string
}

/** Boots the embedded guest, hears so many lines of it, and lets it verify itself and power off. */
export async function runEmbeddedGuest(accel: Accelerator, harts: number, lines: number): Promise<PageRun> {
  const kernel = embeddedGuestImage({ dirtyBytes: 2 << 20, dirtyBytesPerSecond: 8 << 20, linesPerSecond: 20 })
  const guest = createGuestMonitor()
  const decoder = new TextDecoder()
  let input = (_: Uint8Array): void => {}
  const machine = await createMachine(
    virtBoard({
      kernel,
      harts,
      accel,
      ramBytes: 32 << 20,
      serial: {
        write: (bytes) => guest.push(decoder.decode(bytes.slice(), { stream: true })),
        onInput(listener) {
          input = listener
          return { [Symbol.dispose]() {} }
        },
      },
    }),
  )
  try {
    machine.start()
    await guest.until((g) => g.lines >= lines, 120_000)
    input(new TextEncoder().encode('q'))
    await guest.until((g) => g.verdicts.length > 0, 120_000)
    const [verdict] = guest.verdicts
    return {
      lines: guest.lines,
      verdict: verdict && { ok: verdict.ok, errors: verdict.errors },
      problems: guest.problems,
      compiler: machine.cpu.describeCompiler?.() ?? '',
      status: machine.runState,
    }
  } finally {
    await machine[Symbol.asyncDispose]()
  }
}
