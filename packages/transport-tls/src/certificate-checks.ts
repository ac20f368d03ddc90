import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'
import { TlsCredentialsError } from './errors.ts'

const PEM = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g
const MAX_CERTIFICATES = 16

/** The certificates of a PEM file, at least one. @throws TlsCredentialsError */
export function parseCertificates(pem: string, path: string): X509Certificate[] {
  const blocks = pem.match(PEM) ?? []
  if (blocks.length === 0) throw new TlsCredentialsError(`${path} has no certificate in PEM form`)
  if (blocks.length > MAX_CERTIFICATES) {
    throw new TlsCredentialsError(`${path} has ${blocks.length} certificates, at most ${MAX_CERTIFICATES} are read`)
  }
  return blocks.map((block) => {
    try {
      return new X509Certificate(block)
    } catch (cause) {
      throw new TlsCredentialsError(`${path}: a certificate in it is damaged: ${(cause as Error).message}`, { cause })
    }
  })
}

/** @throws TlsCredentialsError the key is no key, or that of another certificate */
export function checkKeyPair(
  certificate: X509Certificate,
  path: string,
  key: string,
  keyPath: string,
  passphrase?: string,
): void {
  let parsed: KeyObject
  try {
    parsed = createPrivateKey({ key, ...(passphrase !== undefined && { passphrase }) })
  } catch (cause) {
    const encrypted = /-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED/m.test(key)
    if (!encrypted) throw new TlsCredentialsError(`${keyPath} is no private key in PEM form`, { cause })
    throw new TlsCredentialsError(
      passphrase === undefined
        ? `${keyPath} is encrypted; give its password in a secret object, and passwordid= with the id of that`
        : `${keyPath}: the password of passwordid does not open it`,
      { cause },
    )
  }
  if (!certificate.checkPrivateKey(parsed)) {
    throw new TlsCredentialsError(`${keyPath} is not the key of the certificate in ${path}`)
  }
}

const PURPOSES = { server: '1.3.6.1.5.5.7.3.1', client: '1.3.6.1.5.5.7.3.2' } as const

/** @throws TlsCredentialsError the certificate may be used for certain things, and this end is none of them */
export function checkPurpose({ keyUsage }: X509Certificate, path: string, endpoint: 'client' | 'server'): void {
  // What Node calls keyUsage is the extended one; without it every use is fine.
  if (keyUsage === undefined || keyUsage.length === 0 || keyUsage.includes(PURPOSES[endpoint])) return
  const other = endpoint === 'client' ? 'server' : 'client'
  throw new TlsCredentialsError(
    keyUsage.includes(PURPOSES[other])
      ? `${path} was issued for a TLS ${other}, not for a ${endpoint}; issue one whose extended key usage names it`
      : `${path} was not issued for TLS; issue one whose extended key usage names a TLS ${endpoint}`,
  )
}

/**
 * What a connection would fail on, found before one is made: dates, and who issued it.
 * @throws TlsCredentialsError
 */
export function checkAuthority(
  certificate: X509Certificate,
  path: string,
  intermediates: readonly X509Certificate[],
  authorities: readonly X509Certificate[],
  authorityPath: string,
): void {
  for (const [it, where] of [
    [certificate, path],
    ...authorities.map((authority) => [authority, authorityPath] as const),
  ] as const) {
    const now = Date.now()
    if (now > Date.parse(it.validTo))
      throw new TlsCredentialsError(`${where}: the certificate expired on ${it.validTo}`)
    if (now < Date.parse(it.validFrom)) {
      throw new TlsCredentialsError(`${where}: the certificate is valid only from ${it.validFrom}`)
    }
  }
  const first = authorities[0]!
  if (!first.ca) throw new TlsCredentialsError(`${authorityPath}: the certificate is not that of an authority (CA)`)
  if (certificate.ca)
    throw new TlsCredentialsError(`${path}: the certificate is that of an authority (CA), not of an end`)
  if (!leadsTo(certificate, intermediates, authorities)) {
    throw new TlsCredentialsError(
      `${path} was not issued by the authority of ${authorityPath}; both must come from one CA`,
    )
  }
}

/** Whether one issued the next, from an authority down to the certificate. */
function leadsTo(
  certificate: X509Certificate,
  intermediates: readonly X509Certificate[],
  authorities: readonly X509Certificate[],
): boolean {
  const issuerIn = (list: readonly X509Certificate[], of: X509Certificate) =>
    list.find((candidate) => of.checkIssued(candidate) && of.verify(candidate.publicKey))
  let at: X509Certificate | undefined = certificate
  // One step for each that there is: a circle ends.
  for (let steps = 0; at && steps <= intermediates.length; steps++) {
    if (issuerIn(authorities, at)) return true
    at = issuerIn(intermediates, at)
  }
  return false
}
