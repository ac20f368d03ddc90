import { existsSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { type Browser, chromium } from 'playwright-core'

/** Debian's; another one is named by FERRY_CHROMIUM. */
const executablePath = process.env.FERRY_CHROMIUM ?? '/usr/bin/chromium'

/** Why tests with a browser cannot run here, or undefined when they can (or must). */
export function chromiumMissing(): string | undefined {
  if (existsSync(executablePath) || process.env.CI || process.env.FERRY_REQUIRE_QEMU) return undefined
  return `${executablePath} is not installed`
}

export const startChromium = (): Promise<Browser> =>
  chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'],
  })

/** esbuild comes with tsup; it is no dependency of ours. */
const require = createRequire(createRequire(import.meta.url).resolve('tsup'))
const esbuild = require('esbuild') as { build(options: object): Promise<{ outputFiles: { text: string }[] }> }

/** A module and all it imports, as a page would load it. */
export async function bundleForBrowser(entry: string): Promise<string> {
  const { outputFiles } = await esbuild.build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    conditions: ['source'],
    target: 'es2024',
    logLevel: 'silent',
  })
  return outputFiles[0]!.text
}

/** Serves these files on loopback, and an empty page at `/` whose threads may share memory if it is isolated. */
export async function serve(files: Readonly<Record<string, string | Uint8Array>>, { isolated = true } = {}) {
  const server = createServer((request, response) => {
    const content = request.url === '/' ? '<!doctype html><title>test</title>' : files[request.url ?? '']
    const type = request.url?.endsWith('.js') ? 'text/javascript' : request.url === '/' ? 'text/html' : ''
    response.writeHead(content === undefined ? 404 : 200, {
      'content-type': type || 'application/octet-stream',
      ...(isolated && {
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-embedder-policy': 'require-corp',
      }),
    })
    response.end(content)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
