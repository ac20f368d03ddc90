import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import { afterAll, describe, it } from 'vitest'
import { channelCompliance } from '../../compliance/src/transport/index.ts'
import { exec } from './index.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-exec-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
let names = 0

/** What `nc -U` does, where there is one. */
const RELAY = `const s = require('net').connect({ path: process.argv[1], allowHalfOpen: true })
s.on('error', () => process.exit(1)); process.stdout.on('error', () => process.exit(1))
process.stdin.pipe(s); s.pipe(process.stdout)
s.on('end', () => process.stdout.write('', () => require('fs').closeSync(1)))
s.on('close', (bad) => process.exit(bad ? 1 : 0))`

describe('exec, with a command that connects to a socket', () => {
  channelCompliance(
    { describe, it },
    {
      async pair() {
        const path = join(folder, `relay${names++}`)
        const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
        await new Promise<void>((resolve) => server.listen(path, resolve))
        const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve))
        const command = `exec '${process.execPath}' -e "${RELAY.replaceAll('\n', ';')}" '${path}'`
        const context = { signal: new AbortController().signal, log: silentLogger }
        const near = await exec({ graceMs: 200 }).connect(command, context)
        const far = fromDuplex(await accepted)
        server.close()
        return [near, far]
      },
    },
  )
})
