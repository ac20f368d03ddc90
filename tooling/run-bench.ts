/**
 * `pnpm bench [name] [options]`: runs every `*.bench.ts` (or those whose path contains `name`; the one that is called `name`, if
 * there is one) one after the other. Each default export measures and reports lines; what matters in them are ratios, taken
 * in one run on one machine. Options, from the first argument that begins with a dash, go to the benchmark.
 */
import { globSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

export type Benchmark = (report: (line: string) => void, options?: readonly string[]) => Promise<void>

const root = resolve(import.meta.dirname, '..')
const args = process.argv.slice(2)
const firstOption = args.findIndex((a) => a.startsWith('-'))
const wanted = firstOption < 0 ? args : args.slice(0, firstOption)
const options = firstOption < 0 ? [] : args.slice(firstOption)
const all = globSync(['packages/*/src/**/*.bench.ts', 'tests/**/*.bench.ts'], { cwd: root }).sort()
const matches = (name: string) => {
  const called = all.filter((f) => basename(f) === `${name}.bench.ts`)
  return called.length > 0 ? called : all.filter((f) => f.includes(name))
}
const files = wanted.length === 0 ? all : all.filter((f) => wanted.some((name) => matches(name).includes(f)))
if (files.length === 0) {
  console.error(`no benchmark matches ${wanted.join(' ')}`)
  process.exit(1)
}
if (options.length > 0 && files.length > 1) {
  console.error(`${options.join(' ')}: options are for one benchmark, and there are ${files.join(', ')}`)
  process.exit(1)
}
for (const file of files) {
  console.log(`\n== ${file}`)
  const { default: run } = (await import(pathToFileURL(resolve(root, file)).href)) as { default: Benchmark }
  await run((line) => console.log(line), options)
}
