import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

/** esbuild comes with tsup; it is no dependency of ours. */
const require = createRequire(createRequire(import.meta.url).resolve('tsup'))
const esbuild = require('esbuild') as {
  build(options: object): Promise<{ outputFiles: { text: string }[]; warnings: unknown[] }>
}

it('the main entry bundles for a browser, without a dependency and without node:', async () => {
  const { outputFiles, warnings } = await esbuild.build({
    entryPoints: [fileURLToPath(new URL('./index.ts', import.meta.url))],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    target: 'es2024',
    logLevel: 'silent',
  })
  expect(warnings).toEqual([])
  const { text } = outputFiles[0]!
  expect(text).not.toMatch(/from\s*["']/)
  expect(text).not.toMatch(/["']node:/)
  expect(text).not.toMatch(/\b(process|Buffer|require)\b\s*[.(]/)
})
