/**
 * Checks what would be published: builds every public package, packs it, and looks at the tarball: export maps and types
 * (publint, are-the-types-wrong), and that the third-party example works when everything is installed from tarballs,
 * outside the workspace.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')
const out = mkdtempSync(join(tmpdir(), 'ferryvm-pack-'))
let failures = 0

function run(what: string, command: string, args: string[], cwd = root): boolean {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' })
  if (status === 0) return true
  failures++
  console.error(`FAILED ${what}: ${command} ${args.join(' ')}\n${stdout}${stderr}`)
  return false
}

const packages = ['packages', 'apps']
  .flatMap((folder) => readdirSync(join(root, folder)).map((name) => join(root, folder, name)))
  .map((folder) => ({ folder, manifest: JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) }))
  .filter(({ manifest }) => !manifest.private)

if (run('build', 'turbo', ['run', 'build', '--output-logs=errors-only'])) {
  const tarballs = join(out, 'tarballs')
  mkdirSync(tarballs)
  for (const { folder, manifest } of packages) {
    const packed = JSON.parse(
      execFileSync('pnpm', ['pack', '--json', '--pack-destination', tarballs], { cwd: folder, encoding: 'utf8' }),
    )
    const tarball = packed.filename as string
    const ok =
      run(`publint ${manifest.name}`, 'publint', ['run', tarball, '--strict'], folder) &&
      (!manifest.exports ||
        run(`types of ${manifest.name}`, 'attw', [tarball, '--profile', 'esm-only', '--no-emoji'], folder))
    console.log(`${ok ? 'ok    ' : 'FAILED'} ${manifest.name}`)
  }
  run('third-party example from tarballs', process.execPath, ['tooling/check-example.ts', tarballs])
}
rmSync(out, { recursive: true })
process.exitCode = failures === 0 ? 0 : 1
