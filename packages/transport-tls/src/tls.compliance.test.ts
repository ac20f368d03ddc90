import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, it } from 'vitest'
import { layerCompliance } from '../../compliance/src/layer/index.ts'
import { loadTlsCredentials, tls } from './index.ts'
import { initTlsFolder } from './pki/index.ts'

const dir = mkdtempSync(join(tmpdir(), 'ferry-tls-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
await initTlsFolder(dir, { hosts: ['loop.example'] })
writeFileSync(join(dir, 'keys.psk'), 'qemu:00112233445566778899aabbccddeeff\n')

for (const kind of ['x509', 'psk', 'anon'] as const) {
  const credentials = await Promise.all([
    loadTlsCredentials({ kind, dir, endpoint: 'client' }),
    loadTlsCredentials({ kind, dir, endpoint: 'server' }),
  ])
  describe(`tls with ${kind}`, () => {
    layerCompliance(
      { describe, it },
      { create: () => tls({ credentials, hostname: 'loop.example' }), detectsCorruption: true },
    )
  })
}
