/**
 * Fetches stock QEMU 10.0 from Debian's backports into `.cache/qemu-10.0`, beside the installed 7.2, which stays as it is:
 * `pnpm stock:fetch`. Nothing to do when it is there already.
 *
 *     node tests/stock-qemu/fetch-stock-10.ts [--suite bookworm-backports] [--mirror <url>]
 */
import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { configuredMirror, FetchError, privateApt, unpackPackage } from '../../tooling/private-apt.ts'
import { stockQemu10, stockQemu10Folder, unpackStockQemu10 } from './stock-10.ts'

const PACKAGES = ['qemu-system-riscv', 'qemu-system-common', 'qemu-system-data']
const { values } = parseArgs({
  options: { suite: { type: 'string', default: 'bookworm-backports' }, mirror: { type: 'string' } },
})
try {
  if (!stockQemu10()) fetchStock10(values.suite, values.mirror ?? configuredMirror())
  const { command, env } = stockQemu10()!
  const version = execFileSync(command, ['--version'], { encoding: 'utf8', env: { ...process.env, ...env } })
  console.log(`stock QEMU in .cache/qemu-10.0: ${version.split('\n')[0]}`)
} catch (error) {
  if (!(error instanceof FetchError)) throw error
  console.error(`stock:fetch: ${error.message}`)
  process.exitCode = 1
}

function fetchStock10(suite: string, mirror: string): void {
  const work = `${stockQemu10Folder}.apt`
  rmSync(work, { recursive: true, force: true })
  try {
    const apt = privateApt(work, { suite, mirror })
    apt('apt-get', ['update', '--error-on=any'])
    const policy = apt('apt-cache', ['policy', PACKAGES[0]!])
    if (!/Candidate: 1:10\./.test(policy)) throw new FetchError(`${suite} has no QEMU 10: ${policy.trim()}`)
    unpackStockQemu10((to) => {
      for (const name of PACKAGES) unpackPackage(apt, name, work, to)
    })
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
