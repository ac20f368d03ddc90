/** Limits of docs/security.md that belong to no package alone, and the page itself. */
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { listen } from '../apps/emu/src/chardev.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-security-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it('a monitor or serial port has at most 16 clients, and hangs up on more', async () => {
  const path = join(folder, 'monitor.sock')
  const server = createServer(() => {})
  await listen(server, { path })
  const clients: Socket[] = []
  const dial = () =>
    new Promise<'open' | 'closed'>((settle) => {
      const client = connect(path)
      clients.push(client)
      client.on('error', () => settle('closed'))
      client.on('close', () => settle('closed'))
      // A server that hangs up does so at once; one that does not has the client among its connections.
      client.on('connect', () => server.getConnections((_, count) => count < clients.length || settle('open')))
    })
  for (let i = 0; i < 16; i++) expect(await dial()).toBe('open')
  expect(await dial()).toBe('closed')
  for (const client of clients) client.destroy()
  server.close()
})

it('the tests that the security page names exist', () => {
  const root = resolve(import.meta.dirname, '..')
  const page = readFileSync(join(root, 'docs/security.md'), 'utf8')
  const named = [...page.matchAll(/"([^"|]{12,})"/g)].map((match) => match[1]!)
  expect(named.length).toBeGreaterThan(9)
  const files = globSync(['tests/**/*.test.ts', 'packages/*/src/**/*.ts'], { cwd: root })
  const sources = files.map((file) => readFileSync(join(root, file), 'utf8')).join('\n')
  expect(named.filter((name) => !sources.includes(name))).toEqual([])
})
