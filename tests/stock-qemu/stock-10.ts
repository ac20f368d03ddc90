import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../', import.meta.url))
const packages = join(root, '../shared/qemu-10.0')
/** Where it is unpacked. */
export const stockQemu10Folder = join(root, '.cache/qemu-10.0')

/** How to start a stock QEMU: a command, what comes before its arguments, what its environment needs. */
export interface StockQemuBinary {
  readonly command: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

/**
 * Stock QEMU 10.0, which `pnpm stock:fetch` gets from Debian, or from its packages beside the repository; undefined when it
 * is neither there. It runs on the libraries of the installed 7.2, whose modules it must not load.
 */
export function stockQemu10(): StockQemuBinary | undefined {
  if (!existsSync(stockQemu10Folder)) {
    if (!existsSync(packages)) return undefined
    unpackStockQemu10((to) => {
      for (const name of readdirSync(packages)) {
        if (name.endsWith('.deb') && !name.includes('x86')) execFileSync('dpkg', ['-x', join(packages, name), to])
      }
    })
  }
  return {
    command: join(stockQemu10Folder, 'usr/bin/qemu-system-riscv64'),
    args: ['-L', join(stockQemu10Folder, 'usr/share/qemu'), '-L', '/usr/share/qemu'],
    env: { QEMU_MODULE_DIR: join(stockQemu10Folder, 'usr/lib/x86_64-linux-gnu/qemu') },
  }
}

/** Why it cannot be used here; undefined when it can. */
export const stockQemu10Missing = (): string | undefined =>
  stockQemu10() ? undefined : 'stock QEMU 10.0 is not here (pnpm stock:fetch)'

/** @param unpack fills a folder; a half-filled one is never taken for the whole */
export function unpackStockQemu10(unpack: (to: string) => void): void {
  const partial = `${stockQemu10Folder}.${process.pid}`
  mkdirSync(partial, { recursive: true })
  unpack(partial)
  if (!existsSync(stockQemu10Folder)) renameSync(partial, stockQemu10Folder)
}
