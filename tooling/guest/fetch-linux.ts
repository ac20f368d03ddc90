/**
 * Fetches the Linux guest from Debian into `.cache/guest`: kernel and modules (`linux-image-riscv64`), `busybox-static` and
 * `opensbi`; then builds an initramfs with a shell. One command, no root: `pnpm guest:fetch`.
 *
 *     node tooling/guest/fetch-linux.ts [--suite trixie] [--mirror <url>] [--force]
 *
 * See tooling/private-apt.ts for what it needs.
 */
import { copyFileSync, globSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { type Apt, configuredMirror, FetchError, privateApt, unpackPackage } from '../private-apt.ts'
import { buildLinuxInitramfs, findFetchedGuest, findLinuxGuest, guestCache, type LinuxGuest } from './linux-guest.ts'

export interface FetchOptions {
  /** Debian suite that has the riscv64 architecture. */
  suite?: string
  /** Debian archive. Default: the one that the machine's own apt uses. */
  mirror?: string
  /** Where the files go. */
  to?: string
  /** Told about each step. */
  log?: (text: string) => void
}

/** Modules kept from the kernel package: what a virtio guest may want, with their dependencies. */
const keptModules = [
  ...['virtio_mmio', 'virtio_blk', 'virtio-rng', 'virtio_balloon', 'failover', 'net_failover', 'virtio_net'],
  ...['netfs', '9pnet', '9pnet_virtio', '9p', 'nvme-core', 'nvme'],
]

/** The package with the files behind a metapackage: the first dependency that `pattern` matches, or the package itself. */
function realPackage(apt: Apt, name: string, pattern: RegExp): string {
  const depends = apt('apt-cache', ['depends', '--no-recommends', '--no-suggests', name])
  const found = depends.split('\n').flatMap((line) => /^\s*\|?Depends: (\S+)/.exec(line)?.[1] ?? [])
  return found.find((dependency) => pattern.test(dependency)) ?? name
}

/** All packages that hold parts of a kernel: newer Debian kernels come as linux-binary-… and linux-modules-… */
function kernelPackages(apt: Apt): string[] {
  const image = realPackage(apt, 'linux-image-riscv64', /^linux-image-\d/)
  const parts = ['binary', 'modules'].map((part) => realPackage(apt, image, new RegExp(`^linux-${part}-\\d`)))
  return [...new Set([image, ...parts])]
}

/** Downloads, unpacks and keeps what is needed. @throws FetchError */
export function fetchLinuxGuest(options: FetchOptions = {}): void {
  const { suite = 'trixie', mirror = configuredMirror(), to = guestCache, log = () => {} } = options
  const work = join(to, 'apt')
  rmSync(work, { recursive: true, force: true })
  const apt = privateApt(work, { suite, mirror, architecture: 'riscv64' })
  try {
    log(`package lists of ${suite} (riscv64) from ${mirror}`)
    apt('apt-get', ['update', '--error-on=any'])
    const packages = [...kernelPackages(apt), 'busybox-static', 'opensbi']
    const unpacked = join(work, 'unpacked')
    for (const name of packages) {
      log(`download ${name}`)
      unpackPackage(apt, name, work, unpacked)
    }
    keep(unpacked, to)
    log(`kept in ${to}`)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

function one(pattern: string, cwd: string): string {
  const [found] = globSync(pattern, { cwd })
  if (!found) throw new FetchError(`the downloaded packages have no ${pattern}`)
  return join(cwd, found)
}

function keep(unpacked: string, to: string) {
  const kernel = one('{boot/vmlinux-*,boot/vmlinuz-*,usr/lib/modules/*/vmlinuz}', unpacked)
  const modules = one('{usr/,}lib/modules/*/kernel', unpacked)
  const version = basename(join(modules, '..'))
  for (const old of readdirSync(to)) if (old.startsWith('vmlinux-')) rmSync(join(to, old))
  rmSync(join(to, 'modules'), { recursive: true, force: true })
  mkdirSync(join(to, 'modules'))
  for (const name of keptModules) {
    const [found] = globSync(`**/${name}.ko{,.xz}`, { cwd: modules })
    if (found) copyFileSync(join(modules, found), join(to, 'modules', basename(found)))
  }
  copyFileSync(one('{usr/,}bin/busybox', unpacked), join(to, 'busybox'))
  copyFileSync(one('usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin', unpacked), join(to, 'fw_dynamic.bin'))
  copyFileSync(kernel, join(to, `vmlinux-${version}`)) // last: its presence says that all is there
}

/** Writes `.cache/guest/initramfs.gz` with an interactive shell, and returns how to start it. */
function describe(guest: LinuxGuest): string {
  const initrd = join(guestCache, 'initramfs.gz')
  mkdirSync(guestCache, { recursive: true })
  writeFileSync(initrd, buildLinuxInitramfs(guest))
  const bios = guest.opensbi ?? '<fw_dynamic.bin of OpenSBI>'
  return `Linux ${guest.kernelVersion}. Start it with

  pnpm emu run -M virt -m 256M -bios ${bios} \\
    -kernel ${guest.kernel} \\
    -initrd ${initrd} -append "console=ttyS0" -nographic
`
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values } = parseArgs({
    options: { suite: { type: 'string' }, mirror: { type: 'string' }, force: { type: 'boolean', default: false } },
  })
  try {
    const log = (text: string) => console.log(text)
    const fetching = values.force || !findLinuxGuest('')
    if (fetching) fetchLinuxGuest({ suite: values.suite, mirror: values.mirror, log })
    console.log(describe(fetching ? findFetchedGuest()! : findLinuxGuest('')!))
  } catch (e) {
    if (!(e instanceof FetchError)) throw e
    console.error(`guest:fetch: ${e.message}`)
    process.exitCode = 1
  }
}
