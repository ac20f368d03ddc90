/**
 * Packages from Debian's archive, unpacked instead of installed, on Debian and its relatives (apt-get, dpkg-deb). apt gets
 * folders of its own, so the machine's package lists are not touched, and verifies signatures and hashes.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const keyrings = ['/usr/share/keyrings/debian-archive-keyring.gpg', '/usr/share/keyrings/debian-archive-keyring.pgp']

/** Fetching failed; the message says what to do about it. */
export class FetchError extends Error {
  override readonly name = 'FetchError'
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

/** Of the machine's own apt. @throws FetchError there is none */
export function configuredMirror(): string {
  let targets = ''
  try {
    const args = ['indextargets', '--format', TARGETS, 'Created-By: Packages']
    targets = execFileSync('apt-get', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch (e) {
    if ((e as { code?: string }).code === 'ENOENT')
      throw new FetchError('apt-get is not installed: this needs Debian or a relative')
  }
  const mirror = debianMirror(targets)
  if (!mirror) throw new FetchError('apt is not set up for a Debian archive here: name one with --mirror')
  return mirror
}

/** Runs `apt-get`, `apt-cache`: command, then arguments; what it prints. */
export type Apt = (command: string, args: string[]) => string

export interface AptSource {
  readonly suite: string
  readonly mirror: string
  /** Default: the machine's own. */
  readonly architecture?: string
}

/** apt with lists, cache and status of its own in `folder`, for one suite. */
export function privateApt(folder: string, { suite, mirror, architecture }: AptSource): Apt {
  const keyring = keyrings.find((path) => existsSync(path))
  if (!keyring) {
    throw new FetchError(`${keyrings[0]} is missing: install the package debian-archive-keyring`)
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
    'APT::Architecture': architecture,
    'APT::Architectures': architecture,
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
        throw new FetchError(`${command} is not installed: this needs Debian or a relative`)
      const said = (failure.stderr ?? '').trim()
      const hint = /unexpected size|Hash Sum mismatch|Mirror sync/.test(said)
        ? '\nThe mirror is in the middle of a sync: try again in a few hours, or give another one with --mirror.'
        : ''
      throw new FetchError(`${command} ${args.join(' ')} failed:\n${said}${hint}`, { cause: e })
    }
  }
}

/** Downloads a package into `folder`, where apt works, and unpacks it. @throws FetchError */
export function unpackPackage(apt: Apt, name: string, folder: string, to: string): void {
  apt('apt-get', ['download', name])
  const archive = readdirSync(folder).find((file) => file.startsWith(`${name}_`) && file.endsWith('.deb'))
  if (!archive) throw new FetchError(`apt-get download ${name} left no package file`)
  execFileSync('dpkg-deb', ['-x', join(folder, archive), to])
  rmSync(join(folder, archive))
}
