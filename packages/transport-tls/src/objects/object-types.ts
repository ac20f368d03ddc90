import { type Authorization, exactly, listed, listedInFile, parseAuthorizationList } from '../authz/authorization.ts'
import { loadTlsCredentials, type TlsCredentials, type TlsEndpoint } from '../credentials.ts'
import { UserObjectError } from '../errors.ts'
import { readSecret } from './secret.ts'

export interface PropertyType {
  readonly kind: 'string' | 'bool' | 'list'
  /** As `qom-list` shows it. Default: `kind`. */
  readonly qomType?: string
  readonly values?: readonly string[]
  readonly default?: string | boolean
  readonly required?: true
  /** Never shown. */
  readonly hidden?: true
}
/** Checked: of the kinds that the table says, defaults filled in. */
export type PropertyValues = Readonly<Record<string, any>>

/** What an object is for. */
export interface ObjectParts {
  readonly credentials?: TlsCredentials
  readonly authorization?: Authorization
  readonly secret?: Uint8Array
}
export interface ObjectType {
  readonly properties: Readonly<Record<string, PropertyType>>
  /** @throws FerryError */
  create(values: PropertyValues, secretOf: (id: string) => Uint8Array): ObjectParts | Promise<ObjectParts>
}

const text: PropertyType = { kind: 'string' }
const flag = (value: boolean): PropertyType => ({ kind: 'bool', default: value })
const choice = (qomType: string, values: readonly string[], first: string): PropertyType => ({
  kind: 'string',
  qomType,
  values,
  default: first,
})
const policy = choice('QAuthZListPolicy', ['deny', 'allow'], 'deny')

const credentialProperties = {
  dir: text,
  endpoint: choice('QCryptoTLSCredsEndpoint', ['client', 'server'], 'client'),
  priority: text,
  'verify-peer': flag(true),
} as const
const common = ({ dir, endpoint, priority }: PropertyValues) => ({
  dir: dir as string | undefined,
  endpoint: endpoint as TlsEndpoint,
  priority: priority as string | undefined,
})

/** Every type of object, with the names of QEMU. Spec: protocol.md section 8. */
export const OBJECT_TYPES: Readonly<Record<string, ObjectType>> = {
  'tls-creds-x509': {
    properties: { ...credentialProperties, 'sanity-check': flag(true), passwordid: text },
    async create(values, secretOf) {
      const { passwordid } = values
      const passphrase = passwordid === undefined ? undefined : new TextDecoder().decode(secretOf(passwordid))
      const credentials = await loadTlsCredentials({
        kind: 'x509',
        ...common(values),
        dir: values.dir ?? '',
        verifyPeer: values['verify-peer'],
        sanityCheck: values['sanity-check'],
        ...(passphrase !== undefined && { passphrase }),
      })
      return { credentials }
    },
  },
  'tls-creds-psk': {
    properties: { ...credentialProperties, username: text },
    create: async (values) => ({
      credentials: await loadTlsCredentials({
        kind: 'psk',
        ...common(values),
        dir: values.dir ?? '',
        username: values.username,
      }),
    }),
  },
  'tls-creds-anon': {
    properties: credentialProperties,
    create: async (values) => ({ credentials: await loadTlsCredentials({ kind: 'anon', ...common(values) }) }),
  },
  'authz-simple': {
    properties: { identity: { kind: 'string', required: true } },
    create: ({ identity }) => ({ authorization: exactly(identity) }),
  },
  'authz-list': {
    properties: { policy, rules: { kind: 'list', qomType: 'QAuthZListRule' } },
    create: ({ policy, rules }) => ({
      authorization: listed(parseAuthorizationList({ policy, ...(rules !== undefined && { rules }) }, 'authz-list')),
    }),
  },
  'authz-list-file': {
    properties: { filename: { kind: 'string', required: true }, refresh: flag(true) },
    create: ({ filename, refresh }) => ({ authorization: listedInFile(filename, refresh) }),
  },
  secret: {
    properties: {
      data: { kind: 'string', hidden: true },
      file: text,
      format: choice('QCryptoSecretFormat', ['raw', 'base64'], 'raw'),
      keyid: text,
      iv: text,
    },
    create: ({ data, file, format, keyid, iv }, secretOf) => ({
      secret: readSecret({ data, file, format, iv, ...(keyid !== undefined && { key: secretOf(keyid) }) }),
    }),
  },
}

/** From a command line everything is text, from QMP it has its JSON type. @throws UserObjectError */
export function checkProperties(where: string, { properties }: ObjectType, given: PropertyValues): PropertyValues {
  const fail = (problem: string): never => {
    throw new UserObjectError(`${where}: ${problem}`)
  }
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(properties, name))
  if (unknown !== undefined) fail(`${unknown} is not supported (there are: ${Object.keys(properties).join(', ')})`)
  const values: Record<string, unknown> = {}
  for (const [name, type] of Object.entries(properties)) {
    const value = given[name] ?? type.default
    if (value === undefined) {
      if (type.required) fail(`${name} is missing`)
    } else if (type.kind === 'bool') {
      if (['on', 'yes', 'true', true].includes(value)) values[name] = true
      else if (['off', 'no', 'false', false].includes(value)) values[name] = false
      else fail(`${name} is on or off, not ${JSON.stringify(value)}`)
    } else if (type.kind === 'list') {
      values[name] = Array.isArray(value) ? value : fail(`${name} is an array`)
    } else if (typeof value !== 'string') fail(`${name} is a string`)
    else if (type.values && !type.values.includes(value)) {
      fail(`${name} is ${type.values.join(' or ')}, not ${JSON.stringify(value)}`)
    } else values[name] = value
  }
  return values
}
