import { FerryError, type UserObjects } from '@ferryvm/core'
import type { Authorization } from '../authz/authorization.ts'
import type { TlsCredentials } from '../credentials.ts'
import { UserObjectError } from '../errors.ts'
import { parseObjectText } from './object-text.ts'
import { checkProperties, OBJECT_TYPES, type ObjectParts, type PropertyValues } from './object-types.ts'

/** Objects of `-object`, with what a migration over TLS needs of them. */
export interface TlsObjects extends UserObjects {
  /** @throws UserObjectError there is none, or it is something else */
  credentials(id: string): TlsCredentials
  /** @throws UserObjectError there is none, or it is something else */
  authorization(id: string): Authorization
}

interface Made {
  readonly type: string
  readonly values: PropertyValues
  readonly parts: ObjectParts
}

const MAX_OBJECTS = 1000
const ID = /^[a-z][a-z0-9._-]{0,254}$/i

/** An empty set of objects. Of the types that `OBJECT_TYPES` has. */
export function createTlsObjects(): TlsObjects {
  const made = new Map<string, Made>()
  /** Ids whose files are being read. */
  const pending = new Set<string>()

  function part<K extends keyof ObjectParts>(id: string, kind: K, what: string): NonNullable<ObjectParts[K]> {
    const found = made.get(id)
    if (!found) {
      const others = [...made].filter(([, { parts }]) => parts[kind] !== undefined).map(([other]) => other)
      throw new UserObjectError(`there is no object with id "${id}" (there are: ${others.join(', ') || 'none'})`)
    }
    return found.parts[kind] ?? throwError(new UserObjectError(`"${id}" is a ${found.type}, not ${what}`))
  }

  return {
    async add(type, id, properties) {
      const where = `-object ${type},id=${id}`
      if (type === 'authz-pam') {
        throw new UserObjectError(
          `${where}: PAM cannot be asked from here; name who may come with authz-list or authz-list-file`,
        )
      }
      if (!Object.hasOwn(OBJECT_TYPES, type)) {
        throw new UserObjectError(`${where}: unknown type (there are: ${Object.keys(OBJECT_TYPES).join(', ')})`)
      }
      if (!ID.test(id)) {
        throw new UserObjectError(`${where}: an id begins with a letter and has letters, digits, ".", "_" and "-"`)
      }
      if (made.has(id) || pending.has(id)) {
        throw new UserObjectError(`${where}: there is an object with this id already`)
      }
      if (made.size + pending.size >= MAX_OBJECTS)
        throw new UserObjectError(`${where}: there are ${MAX_OBJECTS} objects`)
      const definition = OBJECT_TYPES[type]!
      const values = checkProperties(where, definition, properties)
      pending.add(id)
      try {
        const parts = await definition.create(values, (other) => part(other, 'secret', 'a secret'))
        made.set(id, { type, values, parts })
      } catch (cause) {
        if (!FerryError.isInstance(cause)) throw cause
        throw new UserObjectError(`${where}: ${cause.message}`, { cause })
      } finally {
        pending.delete(id)
      }
    },
    async addText(text) {
      const { type, id, properties } = parseObjectText(text)
      await this.add(type, id, properties)
    },
    remove(id) {
      if (!made.delete(id)) throw new UserObjectError(`there is no object with id "${id}"`)
    },
    list: () => [...made].map(([id, { type }]) => ({ id, type })),
    properties(id) {
      const found = made.get(id)
      if (!found) return undefined
      return Object.entries(OBJECT_TYPES[found.type]!.properties).map(([name, { kind, qomType = kind, hidden }]) => ({
        name,
        type: qomType,
        value: hidden ? undefined : (found.values[name] ?? null),
      }))
    },
    credentials: (id) => part(id, 'credentials', 'one with credentials of TLS'),
    authorization: (id) => part(id, 'authorization', 'an authorization object'),
  }
}

function throwError(error: Error): never {
  throw error
}
