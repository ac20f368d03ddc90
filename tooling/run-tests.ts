/**
 * `pnpm test`: every check of the repository, and one closing line `N passed, N failed`.
 *
 * Lanes: lint and format (biome), types (tsc), tests (vitest), packed packages (with `--packages`, or in CI), a part of the
 * matrix of migrations, another one every day (with `--matrix`). Each of the others counts as one test. Arguments that are
 * not ours go to vitest (`pnpm test packages/core`); lanes can be picked with `--only=tests`.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface VitestReport {
  numPassedTests: number
  numFailedTests: number
  numPendingTests: number
  testResults: { name: string; status: string; message: string; assertionResults: { status: string }[] }[]
}

const own = process.argv.slice(2).filter((a) => a.startsWith('--only=') || ['--packages', '--matrix'].includes(a))
const forVitest = process.argv.slice(2).filter((a) => !own.includes(a))
const only = own
  .find((a) => a.startsWith('--only='))
  ?.slice('--only='.length)
  .split(',')
const OPTIONAL = ['packages', 'matrix']
/** Parts of the matrix: each takes about a minute. */
const MATRIX_PARTS = 40
const inCi = process.env.CI === 'true'
const wanted = (lane: string) =>
  only ? only.includes(lane) : !OPTIONAL.includes(lane) || own.includes(`--${lane}`) || (lane === 'packages' && inCi)

let passed = 0
let failed = 0
let skipped = 0

function lane(name: string, command: string, args: string[]): boolean {
  const started = performance.now()
  console.log(`\n=== ${name}: ${command} ${args.join(' ')}`)
  const { status } = spawnSync(command, args, { stdio: 'inherit' })
  console.log(
    `=== ${name}: ${status === 0 ? 'ok' : `FAILED (${status})`} in ${((performance.now() - started) / 1000).toFixed(1)} s`,
  )
  return status === 0
}

const count = (ok: boolean) => (ok ? passed++ : failed++)

if (forVitest.length === 0) {
  if (wanted('lint')) count(lane('lint', 'biome', ['check', '--error-on-warnings', '.']))
  if (wanted('types')) count(lane('types', 'tsc', ['--noEmit', '-p', 'tsconfig.json']))
}

if (wanted('tests')) {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-test-'))
  const report = join(folder, 'report.json')
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const ok = lane('tests', 'vitest', ['run', ...reporters, ...forVitest])
  try {
    const result = JSON.parse(readFileSync(report, 'utf8')) as VitestReport
    passed += result.numPassedTests
    failed += result.numFailedTests
    skipped += result.numPendingTests
    // A file that could not even be loaded has no tests to count.
    const broken = result.testResults.filter(
      (f) => f.status === 'failed' && f.assertionResults.every((t) => t.status !== 'failed'),
    )
    failed += broken.length
    if (!ok && result.numFailedTests + broken.length === 0) failed++
  } catch (error) {
    console.error(`no test report: ${error}`)
    failed++
  }
  rmSync(folder, { recursive: true })
}

if (forVitest.length === 0 && wanted('packages')) {
  count(lane('packages', process.execPath, ['--conditions=source', 'tooling/check-packages.ts']))
}

if (forVitest.length === 0 && wanted('matrix')) {
  const part = Math.floor(Date.now() / 86_400_000) % MATRIX_PARTS
  const args = ['--share', `${part}/${MATRIX_PARTS}`, '--lanes', '4']
  count(lane('matrix', process.execPath, ['--conditions=source', 'tests/matrix/run-matrix.ts', ...args]))
}

if (passed + failed === 0) failed++ // nothing ran: that is not a success
console.log(`\n${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`)
process.exitCode = failed === 0 ? 0 : 1
