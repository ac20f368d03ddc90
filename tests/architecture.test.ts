import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'

/**
 * Dependencies point one way. A package may import what stands in an earlier tier; siblings do not see each other.
 * ARCHITECTURE.md draws the same picture.
 */
const TIERS: string[][] = [
  ['core', 'embedded-guest'],
  [
    'compliance',
    'block',
    'machine',
    'cpu-riscv',
    'devices-virt',
    'devices-virtio',
    'devices-pci',
    'devices-iommu',
    'migration',
    'nbd',
    'netdev',
    'stream',
    'transport-exec',
    'transport-fd',
    'transport-file',
    'transport-http',
    'transport-rdma-sim',
    'transport-socket',
    'transport-tls',
  ],
  ['monitor', 'board-virt', 'colo', 'opentelemetry'],
]
/** Second-tier packages that only tests of others may use. */
const TEST_ONLY = ['compliance']

const root = resolve(import.meta.dirname, '..')
const packagesDir = join(root, 'packages')
const names = readdirSync(packagesDir)
const sources = (folder: string) => globSync('src/**/*.ts', { cwd: folder }).map((f) => join(folder, f))
const isTest = (file: string) => /(\.(test|test-d|bench)|-testing)\.ts$|__fixtures__/.test(file)
const importsOf = (file: string) => {
  const text = readFileSync(file, 'utf8')
  const found = text.matchAll(/^\s*(?:import|export)\b(?:[^'"`;]*?\bfrom)?\s*['"]([^'"]+)['"]/gm)
  const dynamic = text.matchAll(/\bimport\(\s*['"]([^'"]+)['"]\s*\)/g)
  return [...found, ...dynamic].map((m) => m[1]!)
}
const packageOf = (specifier: string) => /^@ferryvm\/([^/]+)/.exec(specifier)?.[1]

describe('architecture', () => {
  it('names every package in a tier', () => {
    expect([...names].sort()).toEqual(TIERS.flat().sort())
  })

  it.each(names)('%s imports only packages of earlier tiers', (name) => {
    const tier = TIERS.findIndex((t) => t.includes(name))
    const allowed = TIERS.slice(0, tier)
      .flat()
      .filter((n) => !TEST_ONLY.includes(n))
    const offences: string[] = []
    for (const file of sources(join(packagesDir, name))) {
      for (const specifier of importsOf(file)) {
        const other = packageOf(specifier)
        if (!other || other === name || allowed.includes(other)) continue
        if (isTest(file) && (TEST_ONLY.includes(other) || tier > 0)) continue
        offences.push(`${relative(root, file)} imports ${specifier}`)
      }
    }
    expect(offences).toEqual([])
  })

  it.each(names)('%s declares what it imports, and core as a peer', (name) => {
    const manifest = JSON.parse(readFileSync(join(packagesDir, name, 'package.json'), 'utf8'))
    const declared = { ...manifest.dependencies, ...manifest.peerDependencies }
    const used = new Set<string>()
    for (const file of sources(join(packagesDir, name)).filter((f) => !isTest(f))) {
      for (const s of importsOf(file)) {
        if (s.startsWith('.') || s.startsWith('node:')) continue
        used.add(s.startsWith('@') ? s.split('/').slice(0, 2).join('/') : s.split('/')[0]!)
      }
    }
    used.delete(manifest.name)
    expect([...used].filter((u) => !(u in declared))).toEqual([])
    expect(manifest.dependencies?.['@ferryvm/core'], 'plugins share one core').toBeUndefined()
  })

  it('keeps node: out of the main entry of core', () => {
    const reached = reach(join(packagesDir, 'core/src/index.ts'))
    const offences = [...reached].flatMap((file) =>
      importsOf(file)
        .filter((s) => !s.startsWith('.'))
        .map((s) => `${file}: ${s}`),
    )
    expect(reached.size).toBeGreaterThan(5)
    expect(offences).toEqual([])
  })

  it('has no import cycle', () => {
    const files = [...names.map((n) => join(packagesDir, n)), join(root, 'apps/emu')]
      .flatMap(sources)
      .filter((f) => !isTest(f))
    const graph = new Map(files.map((f) => [f, runtimeImports(f)]))
    const done = new Set<string>()
    const stack: string[] = []
    const visit = (file: string): string[] | undefined => {
      if (stack.includes(file)) return [...stack.slice(stack.indexOf(file)), file]
      if (done.has(file)) return undefined
      stack.push(file)
      for (const next of graph.get(file) ?? []) {
        const cycle = visit(next)
        if (cycle) return cycle
      }
      stack.pop()
      done.add(file)
      return undefined
    }
    for (const file of files) expect(visit(file)?.map((f) => relative(root, f))).toBeUndefined()
  })

  it('has no file of more than 1000 lines and no utils', () => {
    const files = globSync(['packages/*/src/**/*.ts', 'apps/*/src/**/*.ts', 'tests/**/*.ts', 'tooling/**/*.ts'], {
      cwd: root,
    })
    expect(files.filter((f) => /\butils?\b/.test(f))).toEqual([])
    const long = files.filter(
      (f) => !f.includes('__fixtures__') && readFileSync(join(root, f), 'utf8').split('\n').length > 1000,
    )
    expect(long).toEqual([])
  })
})

/** Relative imports that exist at run time (not `import type`). */
function runtimeImports(file: string): string[] {
  const text = readFileSync(file, 'utf8')
  const found = [...text.matchAll(/^\s*(import|export)\b([^'"`;]*?\bfrom)?\s*['"](\.[^'"]+)['"]/gm)]
  return found
    .filter(([, , clause]) => !/^\s*type\b/.test(clause ?? ''))
    .map(([, , , specifier]) => resolve(dirname(file), specifier!))
    .filter((f) => existsSync(f))
}

function reach(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  for (const next of runtimeImports(file)) reach(next, seen)
  return seen
}
