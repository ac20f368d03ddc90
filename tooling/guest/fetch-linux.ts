/**
 * Fetches the Linux guest from Debian into `.cache/guest`: kernel and modules (`linux-image-riscv64`), `busybox-static` and
 * `opensbi`; then builds an initramfs with a shell. One command, no root: `pnpm guest:fetch`.
 *
 *     node tooling/guest/fetch-linux.ts [--suite trixie] [--mirror <url>] [--force]
 *
 * Works on Debian and its relatives (apt-get, dpkg-deb). apt gets folders of its own, so the machine's package lists are not
 * touched, and verifies signatures and hashes.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, globSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
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

const keyrings = ['/usr/share/keyrings/debian-archive-keyring.gpg', '/usr/share/keyrings/debian-archive-keyring.pgp']

/** Fetching failed; the message says what to do about it. */
export class GuestFetchError extends Error {
  override readonly name = 'GuestFetchError'
}

const TARGETS = '$(REPO_URI)\t$(LABEL)'

/** @param targets what `apt-get indextargets` prints in the format {@link TARGETS} */
export function debianMirror(targets: string): string | undefined {
  const archives = targets.split('\n').map((line) => {
    const [uri = '', label = ''] = line.split('\t')
    return { uri: uri.replace(/\/+$/, ''), label }
  })
  // The label is known once package lists were fetched; before that, archives lie in folders of this name.
  const found = archives.find((a) => a.label === 'Debian') ?? archives.find((a) => /\/debian$/.test(a.uri))
  return found?.uri
}

function configuredMirror(): string {
  let targets = ''
  try {
    const args = ['indextargets', '--format', TARGETS, 'Created-By: Packages']
    targets = execFileSync('apt-get', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch (e) {
    if ((e as { code?: string }).code === 'ENOENT')
      throw new GuestFetchError('apt-get is not installed: this needs Debian or a relative')
  }
  const mirror = debianMirror(targets)
  if (!mirror) throw new GuestFetchError('apt is not set up for a Debian archive here: name one with --mirror')
  return mirror
}

/** apt with lists, cache and status of its own, for riscv64 only. */
function privateApt(folder: string, suite: string, mirror: string) {
  const keyring = keyrings.find((path) => existsSync(path))
  if (!keyring) {
    throw new GuestFetchError(`${keyrings[0]} is missing: install the package debian-archive-keyring`)
  }
  for (const path of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(folder, path), { recursive: true })
  writeFileSync(join(folder, 'status'), '')
  writeFileSync(join(folder, 'sources.list'), `deb [signed-by=${keyring}] ${mirror} ${suite} main\n`)
  const settings = {
    'Dir::Etc::sourcelist': join(folder, 'sources.list'),
    'Dir::Etc::sourceparts': '-',
    'Dir::State': folder,
    'Dir::State::lists': join(folder, 'lists'),
    'Dir::State::status': join(folder, 'status'),
    'Dir::Cache': join(folder, 'cache'),
    'APT::Architecture': 'riscv64',
    'APT::Architectures': 'riscv64',
    'APT::Sandbox::User': process.getuid?.() === 0 ? 'root' : '',
    'Acquire::Languages': 'none',
  }
  const options = Object.entries(settings).flatMap(([name, value]) => (value ? ['-o', `${name}=${value}`] : []))
  return (command: string, args: string[]): string => {
    try {
      const stdio: ['ignore', 'pipe', 'pipe'] = ['ignore', 'pipe', 'pipe']
      return execFileSync(command, [...options, ...args], { cwd: folder, encoding: 'utf8', stdio, maxBuffer: 2 ** 26 })
    } catch (e) {
      const failure = e as { code?: string; stderr?: string }
      if (failure.code === 'ENOENT')
        throw new GuestFetchError(`${command} is not installed: this needs Debian or a relative`)
      const said = (failure.stderr ?? '').trim()
      const hint = /unexpected size|Hash Sum mismatch|Mirror sync/.test(said)
        ? '\nThe mirror is in the middle of a sync: try again in a few hours, or give another one with --mirror.'
        : ''
      throw new GuestFetchError(`${command} ${args.join(' ')} failed:\n${said}${hint}`, { cause: e })
    }
  }
}

/** The package with the files behind a metapackage: the first dependency that `pattern` matches, or the package itself. */
function realPackage(apt: ReturnType<typeof privateApt>, name: string, pattern: RegExp): string {
  const depends = apt('apt-cache', ['depends', '--no-recommends', '--no-suggests', name])
  const found = depends.split('\n').flatMap((line) => /^\s*\|?Depends: (\S+)/.exec(line)?.[1] ?? [])
  return found.find((dependency) => pattern.test(dependency)) ?? name
}

/** All packages that hold parts of a kernel: newer Debian kernels come as linux-binary-… and linux-modules-… */
function kernelPackages(apt: ReturnType<typeof privateApt>): string[] {
  const image = realPackage(apt, 'linux-image-riscv64', /^linux-image-\d/)
  const parts = ['binary', 'modules'].map((part) => realPackage(apt, image, new RegExp(`^linux-${part}-\\d`)))
  return [...new Set([image, ...parts])]
}

/** Downloads, unpacks and keeps what is needed. @throws GuestFetchError */
export function fetchLinuxGuest(options: FetchOptions = {}): void {
  const { suite = 'trixie', mirror = configuredMirror(), to = guestCache, log = () => {} } = options
  const work = join(to, 'apt')
  rmSync(work, { recursive: true, force: true })
  const apt = privateApt(work, suite, mirror)
  try {
    log(`package lists of ${suite} (riscv64) from ${mirror}`)
    apt('apt-get', ['update', '--error-on=any'])
    const packages = [...kernelPackages(apt), 'busybox-static', 'opensbi']
    const unpacked = join(work, 'unpacked')
    for (const name of packages) {
      log(`download ${name}`)
      apt('apt-get', ['download', name])
      const archive = readdirSync(work).find((file) => file.startsWith(`${name}_`) && file.endsWith('.deb'))
      if (!archive) throw new GuestFetchError(`apt-get download ${name} left no package file`)
      execFileSync('dpkg-deb', ['-x', join(work, archive), unpacked])
      rmSync(join(work, archive))
    }
    keep(unpacked, to)
    log(`kept in ${to}`)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

function one(pattern: string, cwd: string): string {
  const [found] = globSync(pattern, { cwd })
  if (!found) throw new GuestFetchError(`the downloaded packages have no ${pattern}`)
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
    if (!(e instanceof GuestFetchError)) throw e
    console.error(`guest:fetch: ${e.message}`)
    process.exitCode = 1
  }
}
