/**
 * Where the Linux guest's files are: `../shared/guest` beside the repository (tests and CI), else what `pnpm guest:fetch`
 * put into `.cache/guest`.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { zstdDecompressSync } from 'node:zlib'
import { buildInitramfs, type InitramfsOptions, type KernelModule } from './initramfs.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
/** Where fetched and unpacked files live. */
export const guestCache = join(root, '.cache/guest')
const sharedGuest = join(root, '../shared/guest')

export interface LinuxGuest {
  /** The kernel, unpacked: a flat Image for `-kernel`. */
  kernel: string
  /** Its version, `6.12.107+deb13-riscv64`. */
  kernelVersion: string
  busybox: string
  /** Folder of `*.ko.xz`. */
  modules: string
  /** OpenSBI fw_dynamic.bin for `-bios`; undefined when neither installed nor fetched. */
  opensbi: string | undefined
}

/** The files, or undefined when they have to be fetched first. @param kernel prefix of its version, `6.12` or `7.2` */
export function findLinuxGuest(kernel = '6.12'): LinuxGuest | undefined {
  return fromShared(kernel) ?? findFetchedGuest(kernel)
}

/** Why tests with Linux cannot run here, in one line; undefined when they can. */
export function linuxGuestMissing(kernel?: string): string | undefined {
  return findLinuxGuest(kernel)
    ? undefined
    : 'no Linux guest: neither ../shared/guest nor .cache/guest (pnpm guest:fetch)'
}

function fromShared(version: string): LinuxGuest | undefined {
  if (!existsSync(sharedGuest)) return undefined
  const packed = readdirSync(sharedGuest).find((name) => name.startsWith('vmlinu') && name.includes(`-${version}`))
  const busybox = join(sharedGuest, 'busybox')
  if (!packed || !existsSync(busybox)) return undefined
  const kernelVersion = packed.replace(/^vmlinu[xz]-/, '').replace(/\.zst$/, '')
  const modules = join(
    sharedGuest,
    kernelVersion.startsWith('6.12') ? 'modules' : `modules-${/^\d+\.\d+/.exec(kernelVersion)}`,
  )
  const kernel = packed.endsWith('.zst') ? unpack(join(sharedGuest, packed)) : join(sharedGuest, packed)
  return { kernel, kernelVersion, busybox, modules, opensbi: findOpensbi() }
}

/** Only what was fetched into `.cache/guest`. @param version prefix of the kernel's version */
export function findFetchedGuest(version = ''): LinuxGuest | undefined {
  if (!existsSync(guestCache)) return undefined
  const name = readdirSync(guestCache).find((entry) => entry.startsWith(`vmlinux-${version}`))
  const busybox = join(guestCache, 'busybox')
  const modules = join(guestCache, 'modules')
  if (!name || !existsSync(busybox) || !existsSync(modules)) return undefined
  const kernelVersion = name.slice('vmlinux-'.length)
  return { kernel: join(guestCache, name), kernelVersion, busybox, modules, opensbi: findOpensbi() }
}

/** Unpacks once, into the cache; the name carries the packed file's hash, and a half-written file never has that name. */
function unpack(packed: string): string {
  const data = readFileSync(packed)
  const to = join(guestCache, 'unpacked', `${createHash('sha256').update(data).digest('hex').slice(0, 16)}.img`)
  if (!existsSync(to)) {
    mkdirSync(join(guestCache, 'unpacked'), { recursive: true })
    const partial = `${to}.${process.pid}`
    writeFileSync(partial, zstdDecompressSync(data))
    renameSync(partial, to)
  }
  return to
}

/** fw_dynamic.bin of OpenSBI: fetched, from Debian's package `opensbi`, or the one that comes with QEMU. */
export function findOpensbi(): string | undefined {
  return [
    join(guestCache, 'fw_dynamic.bin'),
    '/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin',
    '/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin',
  ].find((path) => existsSync(path))
}

/** Modules a disk and randomness need, in load order. */
export const diskModules = ['virtio_mmio', 'virtio_blk', 'virtio-rng']

/**
 * Reads modules by name, those that exist: what is built into a kernel has no file. Unpacked here where `xz` is installed,
 * which spares a slow guest the work; busybox and the kernel take them packed as well.
 */
export function readModules(guest: LinuxGuest, names: readonly string[] = diskModules): KernelModule[] {
  return names.flatMap((module): KernelModule[] => {
    const plain = join(guest.modules, `${module}.ko`)
    if (existsSync(plain)) return [{ name: `${module}.ko`, data: readFileSync(plain) }]
    const packed = `${plain}.xz`
    if (!existsSync(packed)) return []
    const xz = spawnSync('xz', ['-dc', packed], { maxBuffer: 64 * 2 ** 20 })
    if (xz.status === 0) return [{ name: `${module}.ko`, data: xz.stdout }]
    return [{ name: `${module}.ko.xz`, data: readFileSync(packed) }]
  })
}

/** An initramfs for that guest: its busybox, the disk's modules, and what `options` say. */
export function buildLinuxInitramfs(guest: LinuxGuest, options: Partial<InitramfsOptions> = {}): Uint8Array {
  return buildInitramfs({ busybox: readFileSync(guest.busybox), modules: readModules(guest), ...options })
}
