import type { DetailedPeerCertificate } from 'node:tls'
import type { TlsCredentials } from './credentials.ts'
import { TlsHandshakeError } from './errors.ts'

/** What is wrong with the certificate that the peer showed, by the names of Node and OpenSSL. */
function certificateProblem(
  code: string,
  credentials: TlsCredentials,
  peer: DetailedPeerCertificate | undefined,
): string | undefined {
  const other = credentials.endpoint === 'client' ? 'server' : 'client'
  const subject = peer?.subject?.CN === undefined ? '' : ` ("${String(peer.subject.CN)}")`
  const its = `the ${other}'s certificate${subject}`
  const ca = `${credentials.dir}/ca-cert.pem`
  switch (code) {
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'UNABLE_TO_GET_ISSUER_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'CERT_SIGNATURE_FAILURE':
    case 'CERT_UNTRUSTED':
    case 'INVALID_CA':
      return `${its} was not issued by the authority in ${ca}; take the files of both ends from the same CA`
    case 'CERT_HAS_EXPIRED':
      return `${its}, or its authority's, has expired${peer?.valid_to ? ` (on ${peer.valid_to})` : ''}; issue a new one on the ${other}`
    case 'CERT_NOT_YET_VALID':
      return `${its} is not valid yet; compare the clocks of both hosts`
    case 'CERT_REVOKED':
      return `${its} is revoked by ${credentials.dir}/ca-crl.pem; issue a new one on the ${other}`
    case 'CRL_HAS_EXPIRED':
    case 'CRL_NOT_YET_VALID':
    case 'UNABLE_TO_GET_CRL':
    case 'CRL_SIGNATURE_FAILURE':
      return `${credentials.dir}/ca-crl.pem is out of date or not of the CA that issued ${its}; put the current list there`
    case 'INVALID_PURPOSE':
      return `${its} was not issued for a TLS ${other}; its extended key usage must name one`
    default:
      return undefined
  }
}

/** Failures of the handshake itself; the texts of OpenSSL's reasons in Node's error codes. */
const HANDSHAKE_PROBLEMS: readonly (readonly [RegExp, string])[] = [
  [
    /WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG|UNKNOWN_PROTOCOL|BAD_RECORD_TYPE|RECORD_LENGTH_MISMATCH/,
    'the peer does not speak TLS; set tls-creds on both ends, or on neither',
  ],
  [
    /ALERT_(CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_EXPIRED|CERTIFICATE_REVOKED|CERTIFICATE_UNKNOWN)/,
    "the peer refused this end's certificate; its log says why",
  ],
  [
    /DH_KEY_TOO_SMALL|TLS_DH_PARAM_SIZE|BAD_DH_VALUE/,
    "the server's Diffie-Hellman parameters are too weak or no good; remove its dh-params.pem, or make it anew with 2048 bits or more",
  ],
  [
    /NO_SHARED_CIPHER|HANDSHAKE_FAILURE|NO_CIPHERS_AVAILABLE|UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION/,
    'the two ends have no cipher or version in common; use the same kind of credentials (x509, psk or anon) and priority on both',
  ],
]
const PSK_PROBLEM =
  /BAD_RECORD_MAC|DECRYPT|DIGEST|BINDER|PSK_IDENTITY|UNKNOWN_PSK|PSK_NO_|ILLEGAL_PARAMETER|UNKNOWN_PSK_IDENTITY/

/** An error of Node's TLS as a sentence that names the cause and the mend. */
export function handshakeError(
  error: unknown,
  credentials: TlsCredentials,
  peer?: DetailedPeerCertificate,
): TlsHandshakeError {
  if (error instanceof TlsHandshakeError) return error
  const { code = '', message } = error as { code?: string; message: string }
  const certificate = certificateProblem(code, credentials, peer)
  if (certificate) return new TlsHandshakeError(certificate, error)
  if (credentials.kind === 'psk' && (PSK_PROBLEM.test(code) || /cipher operation failed/.test(message))) {
    return new TlsHandshakeError(
      `the two ends have different keys for this user; make ${credentials.dir}/keys.psk the same on both`,
      error,
    )
  }
  for (const [pattern, problem] of HANDSHAKE_PROBLEMS) {
    if (pattern.test(code)) return new TlsHandshakeError(problem, error)
  }
  if (/^(ECONNRESET|EPIPE|FERRY_CHANNEL_CLOSED)$/.test(code)) {
    const why =
      credentials.kind === 'psk'
        ? `it has other keys in its keys.psk, credentials of another kind, or no tls-creds; its log says which`
        : `it refused what it saw, or has no tls-creds; its log says which`
    return new TlsHandshakeError(`the peer closed the connection during the handshake: ${why}`, error)
  }
  return new TlsHandshakeError(`the handshake failed: ${message}`, error)
}

export function hostNameError(host: string, peer: DetailedPeerCertificate, cause: unknown): TlsHandshakeError {
  const names =
    peer.subjectaltname?.replaceAll('IP Address:', '').replaceAll('DNS:', '') || String(peer.subject?.CN ?? '')
  return new TlsHandshakeError(
    `the server's certificate is for ${names}, not for "${host}"; connect by a name it has, or set tls-hostname to one`,
    cause,
  )
}
