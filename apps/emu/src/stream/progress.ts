import type { WalkOptions } from '@ferryvm/stream'

/** Streams that are read faster than this are not worth a line. */
const QUIET_MS = 1000

/** A line on the terminal while a long stream is read; nothing when the output is not a terminal. */
export function progressLine(name: string): { progress: NonNullable<WalkOptions['progress']>; done(): void } {
  const began = Date.now()
  let last = began
  let shown = false
  return {
    progress(position, size) {
      const now = Date.now()
      if (!process.stderr.isTTY || now - began < QUIET_MS || now - last < 200) return
      last = now
      shown = true
      const percent = size ? `${Math.floor((position / size) * 100)} % of ` : ''
      process.stderr.write(`\r${name}: ${percent}${((size ?? position) / 2 ** 20).toFixed(0)} MiB`)
    },
    done() {
      if (shown) process.stderr.write('\n')
    },
  }
}
