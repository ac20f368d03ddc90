import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, it } from 'vitest'
import { transportCompliance } from '../../compliance/src/transport/index.ts'
import { tcp, unix } from './index.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-compliance-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
let names = 0

describe('tcp', () => {
  transportCompliance(
    { describe, it },
    {
      create: () => tcp(),
      address: () => '127.0.0.1:0',
      invalidAddresses: ['', 'host', 'host:', 'host:70000', '::1:1', 'host:1,to=0', 'host:1,colour=blue'],
    },
  )
})
describe('unix', () => {
  transportCompliance(
    { describe, it },
    { create: () => unix(), address: () => join(folder, `c${names++}`), invalidAddresses: ['', 'x'.repeat(200)] },
  )
})
