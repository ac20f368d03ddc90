/** The guest's files: firmware, kernel and an initramfs that holds the benchmark programs. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { buildLinuxInitramfs, findLinuxGuest } from '../../../tooling/guest/linux-guest.ts'
import { GuestError, type GuestFiles } from './linux-machine.ts'

const build = resolve(import.meta.dirname, '../programs/linux/build.sh')
const COMPILER = process.env.CC ?? 'riscv64-unknown-elf-gcc'

/** Why the guest cannot be built here, in a line; undefined when it can. */
export function guestFilesMissing(): string | undefined {
  if (spawnSync(COMPILER, ['--version'], { stdio: 'ignore' }).status !== 0)
    return `${COMPILER} is not installed (Debian: gcc-riscv64-unknown-elf)`
  const guest = findLinuxGuest()
  if (!guest) return 'no Linux guest: pnpm guest:fetch'
  if (!guest.opensbi) return 'no OpenSBI (Debian: opensbi)'
  return undefined
}

/**
 * Builds the programs and the initramfs into `folder`.
 * @param coremark folder of CoreMark's sources
 * @throws GuestError what is missing, or what the compiler said
 */
export function buildGuestFiles(folder: string, coremark?: string): GuestFiles {
  const missing = guestFilesMissing()
  if (missing) throw new GuestError(missing)
  if (coremark && !existsSync(join(coremark, 'core_main.c')))
    throw new GuestError(`--coremark ${coremark}: no core_main.c there`)
  const elf = join(folder, 'bench')
  const built = spawnSync(build, [elf], { encoding: 'utf8', env: { ...process.env, COREMARK: coremark ?? '' } })
  if (built.status !== 0) throw new GuestError(`the benchmark programs do not build:\n${built.stderr}`)
  const guest = findLinuxGuest()!
  const initrd = join(folder, 'initramfs.gz')
  const files: Record<string, Uint8Array> = { '/bench/bench': readFileSync(elf) }
  if (coremark) files['/bench/coremark'] = readFileSync(`${elf}-coremark`)
  writeFileSync(initrd, buildLinuxInitramfs(guest, { modules: [], files }))
  return { bios: guest.opensbi!, kernel: guest.kernel, initrd }
}
