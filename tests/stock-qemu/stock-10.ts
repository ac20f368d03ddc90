import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../', import.meta.url))
const packages = join(root, '../shared/qemu-10.0')
const unpacked = join(root, '.cache/qemu-10.0')

/** How to start a stock QEMU: a command, what comes before its arguments, what its environment needs. */
export interface StockQemuBinary {
  readonly command: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

/**
 * Stock QEMU 10.0 from the Debian packages beside the repository, unpacked once into `.cache`; undefined when they are not
 * there. It runs on the libraries of the installed 7.2, whose modules it must not load.
 */
export function stockQemu10(): StockQemuBinary | undefined {
  if (!existsSync(unpacked)) {
    if (!existsSync(packages)) return undefined
    const partial = `${unpacked}.${process.pid}`
    mkdirSync(partial, { recursive: true })
    for (const name of readdirSync(packages)) {
      if (name.endsWith('.deb') && !name.includes('x86')) execFileSync('dpkg', ['-x', join(packages, name), partial])
    }
    if (!existsSync(unpacked)) renameSync(partial, unpacked)
  }
  return {
    command: join(unpacked, 'usr/bin/qemu-system-riscv64'),
    args: ['-L', join(unpacked, 'usr/share/qemu'), '-L', '/usr/share/qemu'],
    env: { QEMU_MODULE_DIR: join(unpacked, 'usr/lib/x86_64-linux-gnu/qemu') },
  }
}
