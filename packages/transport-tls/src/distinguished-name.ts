import type { X509Certificate } from 'node:crypto'

/** Where GnuTLS, hence QEMU, spells an attribute differently from OpenSSL. */
const GNUTLS_NAMES: Readonly<Record<string, string>> = { emailAddress: 'EMAIL', GN: 'givenName', SN: 'surName' }

/**
 * The subject as QEMU's authorization objects see it: `C=GB,L=London,O=Acme\, Inc,CN=laptop.example`. Attributes stand in the
 * order of the certificate, special characters are escaped as in RFC 4514.
 */
export function distinguishedName({ subject }: Pick<X509Certificate, 'subject'>): string {
  // One line for each part; a line feed inside of a value is escaped. Values in one part are joined with " + ", and a plus
  // inside of a value has a backslash before it.
  return (subject ?? '')
    .split('\n')
    .map((part) =>
      part
        .split(/(?<!\\) \+ /)
        .map((attribute) => attribute.replace(/^[^=]+/, (name) => GNUTLS_NAMES[name] ?? name))
        .join('+'),
    )
    .join(',')
}
