/** A machine in a page of a real browser: harts are its workers, and compile what is hot there. */
import { resolve } from 'node:path'
import { describe, expect, it } from 'vitest'
import { bundleForBrowser, chromiumMissing, serve, startChromium } from './chromium.ts'
import type { PageRun } from './machine-in-page.ts'

const missing = chromiumMissing()
if (missing) console.log(`skipped: a browser and a machine, ${missing}`)

describe.skipIf(missing)('a machine in Chromium', { timeout: 300_000 }, () => {
  const bundle = (path: string) => bundleForBrowser(resolve(import.meta.dirname, path))

  it('says which headers are missing where threads cannot share memory', async () => {
    await using server = await serve({ '/machine.js': await bundle('machine-in-page.ts') }, { isolated: false })
    const browser = await startChromium()
    try {
      const page = await browser.newPage()
      await page.goto(server.url)
      const said = await page.evaluate(
        `import('/machine.js').then((lib) => lib.runEmbeddedGuest('jit', 1, 1)).catch((error) => String(error))`,
      )
      expect(said).toMatch(/Cross-Origin-Opener-Policy: same-origin/)
    } finally {
      await browser.close()
    }
  })

  it('boots the embedded guest on two compiled harts, and the guest finds everything in order', async () => {
    await using server = await serve({
      '/machine.js': await bundle('machine-in-page.ts'),
      '/hart-worker.js': await bundle('../../packages/cpu-riscv/src/worker/hart-worker.ts'),
    })
    const browser = await startChromium()
    try {
      const page = await browser.newPage()
      const failures: string[] = []
      page.on('pageerror', (error) => failures.push(String(error)))
      await page.goto(server.url)
      expect(await page.evaluate('crossOriginIsolated')).toBe(true)
      const run = (await page.evaluate(
        `import('/machine.js').then((lib) => lib.runEmbeddedGuest('jit', 2, 20))`,
      )) as PageRun
      expect(failures).toEqual([])
      expect(run.problems).toEqual([])
      expect(run.verdict).toEqual({ ok: true, errors: 0 })
      expect(run.lines).toBeGreaterThanOrEqual(20)
      expect(run.compiler).toMatch(/^accelerator: jit\nregions: [1-9]/)
      expect(run.compiler).toMatch(/, 0 failed/)
    } finally {
      await browser.close()
    }
  })
})
