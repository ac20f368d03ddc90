import type { SecureContextOptions, SecureVersion } from 'node:tls'
import { TlsCredentialsError } from './errors.ts'

export type TlsKind = 'x509' | 'psk' | 'anon'

const VERSIONS: readonly SecureVersion[] = ['TLSv1.2', 'TLSv1.3']

/** One cipher suite: what OpenSSL calls it, and its parts as GnuTLS names them. */
interface Suite {
  readonly name: string
  readonly cipher: string
  /** undefined: TLS 1.3, where it is not part of the suite. */
  readonly keyExchange?: string
}
const suites = (keyExchange: string, prefix: string, ...rest: readonly (readonly [string, string])[]): Suite[] =>
  rest.map(([cipher, suffix]) => ({ name: `${prefix}${suffix}`, cipher, keyExchange }))

const GCM_256 = ['AES-256-GCM', 'AES256-GCM-SHA384'] as const
const CHACHA = ['CHACHA20-POLY1305', 'CHACHA20-POLY1305'] as const
const GCM_128 = ['AES-128-GCM', 'AES128-GCM-SHA256'] as const

/** In the order of preference. */
const SUITES: Readonly<Record<TlsKind, readonly Suite[]>> = {
  x509: [
    { name: 'TLS_AES_256_GCM_SHA384', cipher: 'AES-256-GCM' },
    { name: 'TLS_CHACHA20_POLY1305_SHA256', cipher: 'CHACHA20-POLY1305' },
    { name: 'TLS_AES_128_GCM_SHA256', cipher: 'AES-128-GCM' },
    ...suites('ECDHE-ECDSA', 'ECDHE-ECDSA-', GCM_256, CHACHA, GCM_128),
    ...suites('ECDHE-RSA', 'ECDHE-RSA-', GCM_256, CHACHA, GCM_128),
    ...suites('DHE-RSA', 'DHE-RSA-', GCM_256, CHACHA, GCM_128),
    ...suites('RSA', '', GCM_256, GCM_128),
    ...suites('ECDHE-ECDSA', 'ECDHE-ECDSA-', ['AES-256-CBC', 'AES256-SHA384'], ['AES-128-CBC', 'AES128-SHA256']),
    ...suites('ECDHE-RSA', 'ECDHE-RSA-', ['AES-256-CBC', 'AES256-SHA384'], ['AES-128-CBC', 'AES128-SHA256']),
  ],
  // GCM before ChaCha20, which has no instructions of its own on the hosts of virtual machines. No suite of OpenSSL joins
  // GCM with ECDHE-PSK in TLS 1.2.
  psk: [
    ...suites('DHE-PSK', 'DHE-PSK-', GCM_256, GCM_128),
    ...suites('PSK', 'PSK-', GCM_256, GCM_128),
    ...suites('ECDHE-PSK', 'ECDHE-PSK-', CHACHA),
    ...suites('DHE-PSK', 'DHE-PSK-', CHACHA),
    ...suites('PSK', 'PSK-', CHACHA),
    ...suites('ECDHE-PSK', 'ECDHE-PSK-', ['AES-256-CBC', 'AES256-CBC-SHA384'], ['AES-128-CBC', 'AES128-CBC-SHA256']),
  ],
  anon: suites('ANON-DH', 'ADH-', GCM_256, GCM_128),
}

const CIPHERS_256 = ['AES-256-GCM', 'CHACHA20-POLY1305', 'AES-256-CBC']
/** What GnuTLS's levels leave of the suites. */
const BASES: Readonly<Record<string, (suite: Suite) => boolean>> = {
  NORMAL: () => true,
  SECURE128: () => true,
  SECURE192: ({ cipher }) => CIPHERS_256.includes(cipher),
  SECURE256: ({ cipher }) => CIPHERS_256.includes(cipher),
  PFS: ({ keyExchange }) => keyExchange !== 'RSA' && keyExchange !== 'PSK',
}

/**
 * A GnuTLS priority string, as far as Node can follow it: versions of TLS, ciphers, key exchanges, and whose order counts.
 *
 * @throws TlsCredentialsError everything else, so that nobody believes a cipher is off that is on
 */
export function parsePriority(text: string, kind: TlsKind): SecureContextOptions {
  const [base = '', ...changes] = text.split(':')
  const all = SUITES[kind]
  const ciphers = new Set(all.map(({ cipher }) => cipher))
  const exchanges = new Set(all.map(({ keyExchange }) => keyExchange).filter((name) => name !== undefined))
  const refuse = (what: string): never => {
    const parts = [...ciphers, ...exchanges].join(', ')
    throw new TlsCredentialsError(
      `priority "${text}": ${what} cannot be mapped to this TLS library (known for ${kind}: ${Object.keys(BASES).join(', ')}; then, with + or - before it, VERS-ALL, VERS-TLS1.2, VERS-TLS1.3, CIPHER-ALL, KX-ALL, ${parts}; %SERVER_PRECEDENCE)`,
    )
  }
  const ofBase = BASES[base] ?? refuse(`"${base}"`)
  const versions = new Set(VERSIONS)
  const allowed = new Set(all.filter(ofBase))
  const put = (on: boolean, which: (suite: Suite) => boolean) => {
    for (const suite of all.filter(which)) {
      if (on) allowed.add(suite)
      else allowed.delete(suite)
    }
  }
  // What QEMU adds itself behind the user's string is never off.
  const own = kind === 'x509' ? [] : [...exchanges]
  let honorCipherOrder: boolean | undefined
  for (const change of changes) {
    const [, sign, what = ''] = /^([+-])(.+)$/.exec(change) ?? []
    const on = sign === '+'
    if (change === '%SERVER_PRECEDENCE') honorCipherOrder = true
    else if (what === 'VERS-ALL' || what === 'VERS-TLS-ALL') {
      for (const version of VERSIONS) versions[on ? 'add' : 'delete'](version)
    } else if (/^VERS-TLS1\.[23]$/.test(what)) versions[on ? 'add' : 'delete'](`TLSv${what.slice(-3)}` as SecureVersion)
    else if (/^VERS-TLS1\.[01]$/.test(what) && !on) continue
    else if (what === 'CIPHER-ALL') put(on, () => true)
    else if (what === 'KX-ALL') put(on, ({ keyExchange }) => keyExchange !== undefined)
    else if (ciphers.has(what)) put(on, ({ cipher }) => cipher === what)
    else if (exchanges.has(what) && (on || !own.includes(what))) put(on, ({ keyExchange }) => keyExchange === what)
    else refuse(`"${change}"`)
  }
  if (versions.size === 0) throw new TlsCredentialsError(`priority "${text}" leaves no version of TLS`)
  // A version without a cipher would be offered, and then fail.
  const versionOf = ({ keyExchange }: Suite): SecureVersion => (keyExchange === undefined ? 'TLSv1.3' : 'TLSv1.2')
  const usable = all.filter((suite) => allowed.has(suite) && versions.has(versionOf(suite)))
  if (usable.length === 0) {
    throw new TlsCredentialsError(`priority "${text}" leaves no cipher that tls-creds-${kind} can use here`)
  }
  const left = VERSIONS.filter((version) => usable.some((suite) => versionOf(suite) === version))
  const names = usable.map(({ name }) => name)
  const untouched = kind === 'x509' && allowed.size === all.length
  return {
    minVersion: left[0]!,
    maxVersion: left.at(-1)!,
    ...(honorCipherOrder && { honorCipherOrder }),
    ...(!untouched && { ciphers: names.join(':') }),
  }
}
