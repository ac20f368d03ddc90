/**
 * QEMU's own script that takes streams apart, `scripts/analyze-migration.py` of its sources: the peer of the stream benchmark.
 * It is not ours to bring along; Debian's source package of 7.2 has it.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { configuredMirror, privateApt } from '../../tooling/private-apt.ts'

const script = fileURLToPath(new URL('../../.cache/analyze-migration/analyze-migration.py', import.meta.url))

/** Where it is; fetched once (24 MB). @throws FetchError */
export function analyzeMigration(): string {
  if (existsSync(script)) return script
  const work = `${dirname(script)}.apt`
  try {
    const apt = privateApt(work, { suite: 'bookworm', mirror: configuredMirror() })
    const list = join(work, 'sources.list')
    writeFileSync(list, readFileSync(list, 'utf8').replace(/^deb /, 'deb-src '))
    apt('apt-get', ['update', '--error-on=any'])
    apt('apt-get', ['source', '--download-only', 'qemu'])
    const sources = readdirSync(work).find((name) => /\.orig\.tar\.\w+$/.test(name))!
    execFileSync('tar', ['-xf', sources, '--strip-components=2', '--wildcards', '*/scripts/analyze-migration.py'], {
      cwd: work,
    })
    mkdirSync(dirname(script), { recursive: true })
    copyFileSync(join(work, 'analyze-migration.py'), script)
    return script
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
