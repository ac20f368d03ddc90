import { expect, it } from 'vitest'
import * as index from './index.ts'
import * as pki from './pki/index.ts'

it('has these public names', () => {
  expect(Object.keys(index).sort()).toEqual([
    'TlsCredentialsError',
    'TlsHandshakeError',
    'UserObjectError',
    'credentialsFor',
    'exactly',
    'listed',
    'listedInFile',
    'loadTlsCredentials',
    'tls',
  ])
  expect(Object.keys(pki).sort()).toEqual(['addPskUser', 'createAuthority', 'initTlsFolder', 'openAuthority'])
})
