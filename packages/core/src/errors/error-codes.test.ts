import { globSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('../../../../', import.meta.url))

/** Codes that a class of some package has: `readonly code = 'FERRY_X'`, with or without a type. */
function codesInSource(): Map<string, string> {
  const codes = new Map<string, string>()
  const files = globSync(['packages/*/src/**/*.ts', 'apps/*/src/**/*.ts'], { cwd: root })
  for (const file of files) {
    if (file.endsWith('.test.ts')) continue
    const text = readFileSync(root + file, 'utf8')
    for (const [, code] of text.matchAll(/readonly code\b[^\n]*= '(FERRY_[A-Z0-9_]+)'/g)) codes.set(code!, file)
  }
  return codes
}

it('docs/errors.md has an entry for every error code, once, and for no other', () => {
  const entries = [...readFileSync(`${root}docs/errors.md`, 'utf8').matchAll(/^## (\S+)$/gm)].map((match) => match[1]!)
  const codes = codesInSource()
  expect(codes.size).toBeGreaterThan(20)
  expect(
    [...codes].filter(([code]) => !entries.includes(code)).map(([code, file]) => `${code} of ${file}`),
    'codes without an entry',
  ).toEqual([])
  expect(
    entries.filter((entry) => !codes.has(entry)),
    'entries without a code',
  ).toEqual([])
  expect(
    entries.filter((entry, i) => entries.indexOf(entry) !== i),
    'entries that are there twice',
  ).toEqual([])
})
