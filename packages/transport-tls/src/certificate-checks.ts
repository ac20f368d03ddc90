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
export function checkKeyPair(certificate: X509Certificate, path: string, key: string, keyPath: string): void {
  let parsed: KeyObject
  try {
    parsed = createPrivateKey(key)
  } catch (cause) {
    throw new TlsCredentialsError(`${keyPath} is no private key in PEM form without a password`, { cause })
  }
  if (!certificate.checkPrivateKey(parsed)) {
    throw new TlsCredentialsError(`${keyPath} is not the key of the certificate in ${path}`)
  }
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
  const issuer = [...intermediates, ...authorities].find((candidate) => certificate.checkIssued(candidate))
  if (!issuer || !certificate.verify(issuer.publicKey)) {
    throw new TlsCredentialsError(
      `${path} was not issued by the authority of ${authorityPath}; both must come from one CA`,
    )
  }
}
