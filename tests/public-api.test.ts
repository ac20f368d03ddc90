import { existsSync, globSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'

/**
 * Public names, by entry, of the packages that do not pin them in an index.test.ts of their own. One that is added or taken
 * away shows up in the snapshot, and belongs first in the description of the change: `vitest run tests/public-api.test.ts -u`.
 */
const root = resolve(import.meta.dirname, '..')

interface Manifest {
  readonly name: string
  readonly exports: Record<string, string | Record<string, string>>
  readonly publishConfig: { readonly exports: Record<string, string | Record<string, string>> }
  readonly bin?: unknown
}
const packages = globSync('packages/*/package.json', { cwd: root })
  .sort()
  .map((file) => ({
    folder: join(root, file, '..'),
    manifest: JSON.parse(readFileSync(join(root, file), 'utf8')) as Manifest,
  }))

describe.each(packages)('$manifest.name', ({ folder, manifest }) => {
  const entries = Object.entries(manifest.exports).filter(([, target]) => typeof target !== 'string')

  const pinnedThere = existsSync(join(folder, 'src/index.test.ts'))

  it.each(pinnedThere ? [] : entries)('%s exports these values', async (entry, target) => {
    const names = Object.keys(await import(join(folder, (target as Record<string, string>).source!))).sort()
    expect(`${manifest.name}${entry.slice(1)}: ${names.join(' ')}`).toMatchSnapshot()
  })

  it('publishes the same entries, without the condition that only this workspace has files for', () => {
    const published = Object.fromEntries(
      Object.entries(manifest.exports).map(([entry, target]) => {
        if (typeof target === 'string') return [entry, target]
        const { source: _, ...rest } = target
        return [entry, rest]
      }),
    )
    expect(manifest.publishConfig.exports).toEqual(published)
  })
})
