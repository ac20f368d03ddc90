import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { withLayer } from '@ferryvm/core'
import { afterAll, describe, it } from 'vitest'
import { transportCompliance } from '../../compliance/src/transport/index.ts'
import { loadTlsCredentials, tls } from '../../transport-tls/src/index.ts'
import { initTlsFolder } from '../../transport-tls/src/pki/index.ts'
import { rdma } from './rdma.ts'
import { softwareDevice } from './software/software-device.ts'
import { FABRICS } from './testing/verbs-pair-testing.ts'

const dir = mkdtempSync(join(tmpdir(), 'ferry-rdma-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
await initTlsFolder(dir, { hosts: ['127.0.0.1'] })
const credentials = await Promise.all([
  loadTlsCredentials({ kind: 'x509', dir, endpoint: 'client' }),
  loadTlsCredentials({ kind: 'x509', dir, endpoint: 'server' }),
])
const invalidAddresses = ['', 'host', 'host:', 'host:70000', '::1:1', 'host:1,ipv4', '[]:1', 'host:0x10']

describe.each(FABRICS)('rdma over the %s fabric', (_, make) => {
  const device = softwareDevice(make())
  const address = () => '127.0.0.1:0'
  transportCompliance({ describe, it }, { create: () => rdma({ device }), address, invalidAddresses })
  describe('within TLS', () => {
    const create = () => withLayer(rdma({ device }), tls({ credentials, hostname: '127.0.0.1' }))
    transportCompliance({ describe, it }, { create, address })
  })
})
