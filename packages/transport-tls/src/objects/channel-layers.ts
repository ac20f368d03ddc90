import { type ChannelLayer, FerryError } from '@ferryvm/core'
import { TlsCredentialsError } from '../errors.ts'
import { checkNamesAreShown, credentialsFor, tls } from '../layer.ts'
import type { TlsObjects } from './user-objects.ts'

/** A connection that a migration is about to make or to wait for. */
export interface TlsLayerRequest {
  readonly role: 'client' | 'server'
  /** Of the address, where it has one. */
  readonly host: string | undefined
  readonly parameters: Readonly<Record<'tls-creds' | 'tls-hostname' | 'tls-authz', string>>
}

/**
 * `channelLayers` of a migration: TLS around every channel when its parameter `tls-creds` names one of the objects.
 *
 * @returns a function that throws TlsCredentialsError when the parameters name what is not there
 */
export function tlsChannelLayers(objects: TlsObjects): (request: TlsLayerRequest) => readonly ChannelLayer[] {
  const named = <T>(parameter: string, find: () => T): T => {
    try {
      return find()
    } catch (cause) {
      if (!FerryError.isInstance(cause)) throw cause
      throw new TlsCredentialsError(`${parameter}: ${cause.message}`, { cause })
    }
  }
  return ({ role, host, parameters }) => {
    const { 'tls-creds': creds, 'tls-hostname': hostname, 'tls-authz': authz } = parameters
    if (!creds) {
      // Stock QEMU takes everybody then; somebody who set it means to keep strangers out.
      if (authz && role === 'server')
        throw new TlsCredentialsError('tls-authz is set and tls-creds is not: nobody would be checked')
      return []
    }
    const credentials = credentialsFor(
      named('tls-creds', () => objects.credentials(creds)),
      role,
    )
    const authorization =
      authz && role === 'server' ? named('tls-authz', () => objects.authorization(authz)) : undefined
    // Stock QEMU does not look at tls-authz then, and takes everybody.
    if (authorization) checkNamesAreShown(credentials)
    return [tls({ credentials, hostname: hostname || host, ...(authorization && { authorization }) })]
  }
}
