import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { scratchFolder, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { startOurs, startStock } from './bench-guest.ts'

/** The compiler that built the committed image: Debian 12's gcc-riscv64-unknown-elf. */
const compiler = '12.2.0'

function installedCompiler(): string | undefined {
  try {
    return execFileSync('riscv64-unknown-elf-gcc', ['-dumpfullversion'], { encoding: 'utf8' }).trim()
  } catch {
    return undefined
  }
}

describe('the benchmark guest', () => {
  const found = installedCompiler()
  const why =
    found === compiler ? '' : ` (skipped: needs riscv64-unknown-elf-gcc ${compiler}, found ${found ?? 'none'})`
  it.skipIf(found !== compiler)(`is what its sources build, byte for byte${why}`, () => {
    const folder = scratchFolder()
    try {
      const rebuilt = join(folder.path, 'image.ts')
      execFileSync(join(import.meta.dirname, 'programs/build.sh'), [rebuilt])
      expect(readFileSync(rebuilt, 'utf8')).toBe(
        readFileSync(join(import.meta.dirname, 'programs/image-data.ts'), 'utf8'),
      )
    } finally {
      folder.remove()
    }
  })

  const missing = stockQemuMissing()
  it.skipIf(missing)(`computes what it computes on stock QEMU${missing ? ` (skipped: ${missing})` : ''}`, async () => {
    const folder = scratchFolder()
    try {
      await using ours = await startOurs()
      await using stock = await startStock(folder.path)
      for (const name of ['crc', 'list', 'qsort', 'sieve', 'matrix', 'dhry', 'state', 'interp', 'stream', 'chase']) {
        const [mine, theirs] = [await ours.console.run(name, 3), await stock.console.run(name, 3)]
        expect([name, mine.checksum]).toEqual([name, theirs.checksum])
      }
      for (const name of ['nbody', 'nbody-unfused']) {
        const [mine, theirs] = [await ours.console.run(name, 3000), await stock.console.run(name, 3000)]
        expect([name, mine.checksum]).toEqual([name, theirs.checksum])
      }
    } finally {
      folder.remove()
    }
  })
})
