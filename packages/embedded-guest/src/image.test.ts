import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { embeddedGuestImage, GuestParameterError } from './image.ts'

/** The compiler that built the committed image: Debian 12's gcc-riscv64-unknown-elf. */
const compiler = '12.2.0'

function installedCompiler(): string | undefined {
  try {
    return execFileSync('riscv64-unknown-elf-gcc', ['-dumpfullversion'], { encoding: 'utf8' }).trim()
  } catch {
    return undefined
  }
}

describe('embeddedGuestImage', () => {
  it('patches options into the parameter block', () => {
    const plain = embeddedGuestImage()
    const image = embeddedGuestImage({ dirtyBytes: 1 << 20, disk: false, rng: false, seed: 7n })
    const view = new DataView(image.buffer)
    expect(view.getBigUint64(0x118, true)).toBe(0x10_0000n)
    expect(view.getBigUint64(0x160, true)).toBe(18n)
    expect(view.getBigUint64(0x168, true)).toBe(7n)
    const changed = [...image.keys()].filter((at) => image[at] !== plain[at])
    expect(changed.every((at) => at >= 0x110 && at < 0x170)).toBe(true)
  })
  it('refuses what the guest could not do', () => {
    expect(() => embeddedGuestImage({ diskDepth: 9 })).toThrow(GuestParameterError)
    expect(() => embeddedGuestImage({ dirtyWordsPerPage: 0 })).toThrow(/dirtyWordsPerPage is 0; .* from 1 to 512/)
    expect(() => embeddedGuestImage({ dirtyBytes: 1.5 })).toThrow(GuestParameterError)
    expect(() => embeddedGuestImage({ seed: -1n })).toThrow(/seed/)
  })

  const found = installedCompiler()
  const why = found === undefined ? 'riscv64-unknown-elf-gcc is not installed' : `it is ${found}`
  it.skipIf(found !== compiler)(
    found === compiler
      ? `is what gcc ${compiler} builds, byte for byte`
      : `needs riscv64-unknown-elf-gcc ${compiler}: ${why}`,
    () => {
      const work = mkdtempSync(join(tmpdir(), 'ferry-guest-'))
      try {
        execFileSync(fileURLToPath(new URL('../build-guest.sh', import.meta.url)), [join(work, 'image.ts')])
        const rebuilt = readFileSync(join(work, 'image.ts'), 'utf8')
        expect(rebuilt).toBe(readFileSync(new URL('./image-data.ts', import.meta.url), 'utf8'))
      } finally {
        rmSync(work, { recursive: true })
      }
    },
  )
})
