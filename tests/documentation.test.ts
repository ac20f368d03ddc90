import { globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import ts from 'typescript'
import { afterAll, expect, it } from 'vitest'

/**
 * What READMEs and guides show is code: every TypeScript block is compiled, and the tests of the guides run. A block whose
 * first line is a comment with a file name can be imported by the other blocks of its document.
 */
const root = resolve(import.meta.dirname, '..')
const folder = join(root, '.cache', `documentation-${process.pid}`)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Block {
  readonly document: string
  /** Line of the document that the code begins at, counted from 0. */
  readonly line: number
  readonly file: string
}
const documents = globSync(['*.md', 'docs/*.md', 'packages/*/README.md', 'apps/*/README.md', 'examples/*/README.md'], {
  cwd: root,
})
const blocks = documents.flatMap(blocksOf)

function blocksOf(document: string): Block[] {
  const text = readFileSync(join(root, document), 'utf8')
  const place = join(folder, document.replaceAll(/[^a-z0-9]+/gi, '-').toLowerCase())
  mkdirSync(place, { recursive: true })
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match, index) => {
    const code = match[1]!
    const name = /^\/\/ (\S+\.ts)\n/.exec(code)?.[1] ?? `block-${index}.ts`
    const file = join(place, name)
    writeFileSync(file, `${code}\nexport {}\n`)
    return { document, line: text.slice(0, match.index).split('\n').length, file }
  })
}

it('every example in a README or guide compiles', { timeout: 120_000 }, () => {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
  const program = ts.createProgram(
    blocks.map((b) => b.file),
    {
      ...options,
      noUnusedLocals: false,
      // The example package is not one of ours, so it is in no node_modules.
      paths: Object.fromEntries(
        ['acme-rng', 'transport-websocket'].map((name) => [name, [join(root, 'examples', name, 'src/index.ts')]]),
      ),
    },
  )
  const complaints = blocks.flatMap(({ document, line, file }) => {
    const source = program.getSourceFile(file)!
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map((d) => {
      const at = source.getLineAndCharacterOfPosition(d.start ?? 0).line
      return `${document}:${line + at + 1}: ${ts.flattenDiagnosticMessageText(d.messageText, '\n')}`
    })
  })
  expect(complaints).toEqual([])
  expect(blocks.length).toBeGreaterThan(15)
})

it('a README is short, says how to install and shows code', () => {
  const missing = globSync('packages/*/package.json', { cwd: root }).flatMap((manifest) => {
    const readme = join(manifest, '../README.md')
    if (!documents.includes(readme)) return [`${readme} is not there`]
    const text = readFileSync(join(root, readme), 'utf8')
    const { name } = JSON.parse(readFileSync(join(root, manifest), 'utf8'))
    return [`# ${name}\n`, `npm install`, '```ts', 'Errors']
      .filter((part) => !text.includes(part))
      .map((p) => `${readme}: ${p}`)
  })
  expect(missing).toEqual([])
  const long = blocks
    .filter((b) => b.document.endsWith('README.md'))
    .filter((b) => readFileSync(b.file, 'utf8').split('\n').length > 24)
  expect(long.map((b) => b.document)).toEqual([])
})

// The tests of the guides: importing them registers their cases here.
for (const { file } of blocks.filter((b) => b.file.endsWith('.test.ts'))) await import(/* @vite-ignore */ file)
