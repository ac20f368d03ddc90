import type { SecureContextOptions, SecureVersion } from 'node:tls'
import { TlsCredentialsError } from './errors.ts'

const VERSIONS: readonly SecureVersion[] = ['TLSv1.2', 'TLSv1.3']
const KNOWN =
  'NORMAL, then any of -VERS-ALL, -VERS-TLS-ALL, +VERS-TLS1.2, -VERS-TLS1.2, +VERS-TLS1.3, -VERS-TLS1.3, %SERVER_PRECEDENCE'

/**
 * A GnuTLS priority string, as far as Node can follow it: which versions, and whose order of ciphers counts.
 *
 * @throws TlsCredentialsError everything else, so that nobody believes a cipher is off that is on
 */
export function parsePriority(text: string): SecureContextOptions {
  const [base, ...changes] = text.split(':')
  const refuse = (what: string): never => {
    throw new TlsCredentialsError(`priority "${text}": ${what} cannot be mapped to this TLS library (known: ${KNOWN})`)
  }
  if (base !== 'NORMAL') refuse(`"${base}"`)
  const versions = new Set(VERSIONS)
  let honorCipherOrder: boolean | undefined
  for (const change of changes) {
    const match = /^([+-])VERS-TLS(1\.[23])$/.exec(change)
    if (change === '-VERS-ALL' || change === '-VERS-TLS-ALL') versions.clear()
    else if (change === '+VERS-ALL' || change === '+VERS-TLS-ALL') for (const v of VERSIONS) versions.add(v)
    else if (/^-VERS-TLS1\.[01]$/.test(change)) continue
    else if (match?.[1] === '+') versions.add(`TLSv${match[2]}` as SecureVersion)
    else if (match) versions.delete(`TLSv${match[2]}` as SecureVersion)
    else if (change === '%SERVER_PRECEDENCE') honorCipherOrder = true
    else refuse(`"${change}"`)
  }
  const left = VERSIONS.filter((version) => versions.has(version))
  if (left.length === 0) throw new TlsCredentialsError(`priority "${text}" leaves no version of TLS`)
  return { minVersion: left[0]!, maxVersion: left.at(-1)!, ...(honorCipherOrder && { honorCipherOrder }) }
}
