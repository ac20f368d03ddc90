/** What a mend may refer to. */
export interface MendContext {
  readonly clientDir: string | undefined
  readonly serverDir: string | undefined
  readonly host: string
}

/** Folder of a file that a sentence names. */
const folderIn = (sentence: string): string | undefined => /(\S*)\/[a-z-]+\.(?:pem|psk)\b/.exec(sentence)?.[1]

const renew = (dir: string, host: string) => `emu tls init ${dir} --renew --host ${host}`

/** What is wrong, by what the sentence says, and the command against it. */
const MENDS: readonly (readonly [RegExp, (sentence: string, context: MendContext) => string])[] = [
  [/keys\.psk cannot be read: no such file or directory/, (text) => `emu tls init ${folderIn(text)} --psk`],
  [
    /has no key of the user "([^"]+)"/,
    (text) => `emu tls init ${folderIn(text)} --psk ${/the user "([^"]+)"/.exec(text)![1]}`,
  ],
  [
    /keys\.psk has no key|line \d+ is not user:hexkey/,
    (text) => `rm ${folderIn(text)}/keys.psk && emu tls init ${folderIn(text)} --psk`,
  ],
  [
    /different keys for this user|other keys in its keys\.psk/,
    (_, { clientDir = 'CLIENT_DIR', serverDir = 'SERVER_DIR' }) => `cp ${serverDir}/keys.psk ${clientDir}/keys.psk`,
  ],
  [
    /(\S+) cannot be read: no such file or directory/,
    (text, { host }) => `emu tls init ${folderIn(text)} --host ${host}`,
  ],
  [/(\S+) cannot be read: permission denied/, (text) => `chmod u+r ${/(\S+) cannot be read/.exec(text)![1]}`],
  [/(\S+) cannot be read/, (text) => `rm -r ${/(\S+) cannot be read/.exec(text)![1]}   # and put the right file there`],
  [/ca-crl\.pem is out of date/, (text) => `rm ${folderIn(text)}/ca-crl.pem   # until the current list is there`],
  [
    /is encrypted; give its password/,
    () => `-object secret,id=password0,file=FILE and passwordid=password0 with the credentials`,
  ],
  [
    /is not allowed by the authorization object/,
    (text) => `object_add authz-simple,id=authz0,identity=${/"([^"]*)"/.exec(text)![1]!.replaceAll(',', ',,')}`,
  ],
  [
    /certificate is for .*, not for "([^"]*)"/,
    (text, { serverDir = 'SERVER_DIR' }) => renew(serverDir, /not for "([^"]*)"/.exec(text)![1]!),
  ],
  [
    /ca-cert\.pem: the certificate (expired|is valid only)|not that of an authority/,
    (text, { host }) => `emu tls init ${folderIn(text)}.new --host ${host}   # for both ends`,
  ],
  [
    /not issued by the authority|no certificate that the authority/,
    (_, { serverDir = 'SERVER_DIR', clientDir = 'CLIENT_DIR', host }) =>
      `${renew(serverDir, host)} && cp ${serverDir}/ca-cert.pem ${serverDir}/client-*.pem ${clientDir}/`,
  ],
  [
    /the server's certificate|server-(cert|key)\.pem|what \S+ shows/,
    (_, { serverDir = 'SERVER_DIR', host }) => renew(serverDir, host),
  ],
  [
    /the client's certificate|client-(cert|key)\.pem/,
    (_, { clientDir = 'CLIENT_DIR', host }) => renew(clientDir, host),
  ],
  [
    /does not speak TLS|set tls-creds on both|no tls-creds/,
    () => 'migrate_set_parameter tls-creds tls0   # on both ends',
  ],
  [/cipher or version in common/, () => 'the same -object tls-creds-… and priority= on both ends'],
  [/no host name/, (_, { host }) => `migrate_set_parameter tls-hostname ${host}`],
]

/** The command that mends what the sentence says; undefined: there is none. */
export function mendFor(sentence: string, context: MendContext): string | undefined {
  return MENDS.find(([pattern]) => pattern.test(sentence))?.[1](sentence, context)
}
