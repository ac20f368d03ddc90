import 'reflect-metadata' // before the next one, which needs it
import { createPrivateKey } from 'node:crypto'
import { isIP } from 'node:net'
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
  X509CrlGenerator,
  X509CrlReason,
} from '@peculiar/x509'

import { TlsCredentialsError } from '../errors.ts'

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const DAY_MS = 86_400_000
/** Clocks of two hosts differ. */
const CLOCK_SLACK_MS = 3_600_000

export interface IssueOptions {
  readonly endpoint: 'client' | 'server'
  /** Common name. */
  readonly name: string
  /** Names and IP addresses that clients connect to. */
  readonly hosts?: readonly string[]
  /** Default: from an hour ago. */
  readonly notBefore?: Date
  /** Default: `days` of the authority. */
  readonly notAfter?: Date
}
/** PEM texts. */
export interface Issued {
  readonly cert: string
  readonly key: string
  readonly serialNumber: string
}
export interface Authority {
  /** PEM texts. */
  readonly cert: string
  readonly key: string
  issue(options: IssueOptions): Promise<Issued>
  /** A list, PEM, that revokes those. */
  revoke(issued: readonly Issued[]): Promise<string>
}

/** A new CA with a P-256 key. @param days how long it and what it issues are valid, default 3650 */
export async function createAuthority(name = 'ferryvm migration CA', days = 3650): Promise<Authority> {
  const notBefore = new Date(Date.now() - CLOCK_SLACK_MS)
  const notAfter = new Date(Date.now() + days * DAY_MS)
  const keys = await newKeys()
  const own = await X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    name: [{ CN: [name] }],
    notBefore,
    notAfter,
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
    ],
  })
  return authority(own, keys.privateKey, await privatePem(keys), { notBefore, notAfter })
}

/** The CA whose certificate and key are in those PEM texts. @throws TlsCredentialsError they are no such thing */
export async function openAuthority(certPem: string, keyPem: string): Promise<Authority> {
  try {
    const own = new X509Certificate(certPem)
    // Through Node's own parser, which takes every form of PEM.
    const pkcs8 = createPrivateKey(keyPem).export({ type: 'pkcs8', format: 'der' })
    const key = await crypto.subtle.importKey('pkcs8', new Uint8Array(pkcs8), ALGORITHM, true, ['sign'])
    const { notAfter } = own
    return authority(own, key, keyPem, { notBefore: new Date(Date.now() - CLOCK_SLACK_MS), notAfter })
  } catch (cause) {
    throw new TlsCredentialsError(`this is no CA with a P-256 key: ${(cause as Error).message}`, { cause })
  }
}

function authority(
  own: X509Certificate,
  signingKey: CryptoKey,
  key: string,
  { notBefore, notAfter }: { notBefore: Date; notAfter: Date },
): Authority {
  return {
    cert: pem(own.toString('pem')),
    key,
    async issue({ endpoint, name: commonName, hosts = [], ...dates }) {
      const issuedKeys = await newKeys()
      const purpose = endpoint === 'server' ? ExtendedKeyUsage.serverAuth : ExtendedKeyUsage.clientAuth
      const extensions: Extension[] = [
        new BasicConstraintsExtension(false, undefined, true),
        // Stock QEMU's own check asks for key encipherment too.
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature | KeyUsageFlags.keyEncipherment, true),
        new ExtendedKeyUsageExtension([purpose]),
      ]
      if (hosts.length > 0) {
        const names = hosts.map((value) => ({ type: isIP(value) ? ('ip' as const) : ('dns' as const), value }))
        extensions.push(new SubjectAlternativeNameExtension(names))
      }
      const serialNumber = newSerial()
      const certificate = await X509CertificateGenerator.create({
        serialNumber,
        subject: [{ CN: [commonName] }],
        issuer: own.subject,
        notBefore: dates.notBefore ?? notBefore,
        notAfter: dates.notAfter ?? notAfter,
        signingAlgorithm: ALGORITHM,
        publicKey: issuedKeys.publicKey,
        signingKey,
        extensions,
      })
      return { cert: pem(certificate.toString('pem')), key: await privatePem(issuedKeys), serialNumber }
    },
    async revoke(issued) {
      const crl = await X509CrlGenerator.create({
        issuer: own.subject,
        thisUpdate: notBefore,
        nextUpdate: notAfter,
        signingAlgorithm: ALGORITHM,
        signingKey,
        entries: issued.map(({ serialNumber }) => ({
          serialNumber,
          revocationDate: notBefore,
          reason: X509CrlReason.unspecified,
        })),
      })
      // RFC 7468, section 6; the library's label is another one.
      return pem(crl.toString('pem').replace(/(BEGIN|END) CRL/g, '$1 X509 CRL'))
    },
  }
}

const newKeys = (): Promise<CryptoKeyPair> => crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])

async function privatePem({ privateKey }: CryptoKeyPair): Promise<string> {
  const base64 = Buffer.from(await crypto.subtle.exportKey('pkcs8', privateKey)).toString('base64')
  return `-----BEGIN PRIVATE KEY-----\n${base64.replace(/.{64}(?=.)/g, '$&\n')}\n-----END PRIVATE KEY-----\n`
}

/** 16 random bytes, hexadecimal; positive and without leading zeros. */
function newSerial(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  bytes[0] = (bytes[0]! & 0x3f) | 0x40
  return Buffer.from(bytes).toString('hex')
}

const pem = (text: string): string => (text.endsWith('\n') ? text : `${text}\n`)
