/**
 * Checks what would be published: builds every public package, packs it, and looks at the tarball: what is in it, export
 * maps and types (publint, are-the-types-wrong), and that the third-party examples work when everything is installed
 * from tarballs, outside the workspace.
 *
 *     pnpm check:packages [--keep <folder>]     the folder gets the tarballs
 */
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'

interface Manifest {
  readonly name: string
  readonly private?: boolean
  readonly exports?: Record<string, unknown>
}
interface Package {
  readonly folder: string
  readonly manifest: Manifest
}

const root = resolve(import.meta.dirname, '..')
const { values } = parseArgs({ options: { keep: { type: 'string' } } })
const out = mkdtempSync(join(tmpdir(), 'ferryvm-pack-'))
const tarballs = resolve(values.keep ?? join(out, 'tarballs'))
let failures = 0

function fail(what: string, detail: string): false {
  failures++
  console.error(`FAILED ${what}\n${detail}`)
  return false
}

/** @returns stdout, or undefined after it was reported that the command failed */
function run(what: string, command: string, args: string[], cwd = root): Promise<string | undefined> {
  return new Promise((done) => {
    execFile(command, args, { cwd, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      if (!error) return done(stdout)
      fail(what, `${command} ${args.join(' ')}\n${stdout}${stderr || error.message}`)
      done(undefined)
    })
  })
}

async function timed(what: string, work: () => Promise<void>): Promise<void> {
  const started = performance.now()
  await work()
  console.log(`       ${what}: ${((performance.now() - started) / 1000).toFixed(1)} s`)
}

/** What a user gets is the built files, a README and the licence, and a manifest that knows nothing of the workspace. */
async function checkContents(name: string, tarball: string): Promise<boolean> {
  const listing = await run(`contents of ${name}`, 'tar', ['-tzf', tarball])
  const manifest = await run(`manifest of ${name}`, 'tar', ['-xzOf', tarball, 'package/package.json'])
  if (listing === undefined || manifest === undefined) return false
  const files = listing
    .trim()
    .split('\n')
    .map((file) => file.slice('package/'.length))
  const wrong: string[] = []
  for (const needed of ['README.md', 'LICENSE']) if (!files.includes(needed)) wrong.push(`has no ${needed}`)
  const strange = files.filter((f) => !/^(README\.md|LICENSE|CHANGELOG\.md|package\.json|dist\/.*)$/.test(f))
  if (strange.length > 0) wrong.push(`has files that nobody needs: ${strange.join(' ')}`)
  if (manifest.includes('workspace:')) wrong.push('package.json still says workspace:')
  if (manifest.includes('"source"'))
    wrong.push('package.json exports the condition `source`, whose files are not there')
  return wrong.length === 0 || fail(`contents of ${name}`, wrong.join('\n'))
}

async function checkPackage({ folder, manifest }: Package): Promise<void> {
  const packed = await run(`pack ${manifest.name}`, 'pnpm', ['pack', '--json', '--pack-destination', tarballs], folder)
  if (packed === undefined) return
  const tarball = JSON.parse(packed).filename as string
  let ok = await checkContents(manifest.name, tarball)
  ok = (await run(`publint ${manifest.name}`, 'publint', ['run', tarball, '--strict'], folder)) !== undefined && ok
  if (manifest.exports) {
    const args = [tarball, '--profile', 'esm-only', '--no-emoji']
    ok = (await run(`types of ${manifest.name}`, 'attw', args, folder)) !== undefined && ok
  }
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${manifest.name}`)
}

const packages: Package[] = ['packages', 'apps']
  .flatMap((folder) => readdirSync(join(root, folder)).map((name) => join(root, folder, name)))
  .map((folder) => ({ folder, manifest: JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest }))
  .filter(({ manifest }) => !manifest.private)

try {
  mkdirSync(tarballs, { recursive: true })
  await timed('build', async () => {
    await run('build', 'turbo', ['run', 'build', '--filter=@ferryvm/*', '--output-logs=errors-only'])
  })
  if (failures === 0) {
    await timed('tarballs', async () => {
      const waiting = [...packages]
      const worker = async () => {
        for (let next = waiting.shift(); next; next = waiting.shift()) await checkPackage(next)
      }
      await Promise.all([worker(), worker()])
    })
    await timed('examples', async () => {
      for (const example of ['acme-rng', 'transport-websocket']) {
        const node = ['--conditions=source', '--disable-warning=ExperimentalWarning']
        const what = `${example}, installed from tarballs`
        const said = await run(what, process.execPath, [...node, 'tooling/check-example.ts', tarballs, example])
        if (said !== undefined) console.log(`${said.trimEnd()}\nok     ${what}`)
      }
    })
  }
} finally {
  rmSync(out, { recursive: true, force: true })
}
process.exitCode = failures === 0 ? 0 : 1
