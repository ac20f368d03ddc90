/**
 * `pnpm bench [name]`: runs every `*.bench.ts` (or those whose path contains `name`) one after the other. Each default export
 * measures and reports lines; what matters in them are ratios, taken in one run on one machine.
 */
import { globSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

export type Benchmark = (report: (line: string) => void) => Promise<void>

const root = resolve(import.meta.dirname, '..')
const wanted = process.argv.slice(2)
const files = globSync(['packages/*/src/**/*.bench.ts', 'tests/**/*.bench.ts'], { cwd: root })
  .filter((f) => wanted.length === 0 || wanted.some((w) => f.includes(w)))
  .sort()
if (files.length === 0) {
  console.error(`no benchmark matches ${wanted.join(' ')}`)
  process.exit(1)
}
for (const file of files) {
  console.log(`\n== ${file}`)
  const { default: run } = (await import(pathToFileURL(resolve(root, file)).href)) as { default: Benchmark }
  await run((line) => console.log(line))
}
