import { FerryError } from './ferry-error.ts'

/** Two sections with one name and instance cannot be told apart by a loader. */
export class DuplicateSectionError extends FerryError {
  readonly code = 'FERRY_REGISTRY_DUPLICATE'
  readonly idstr: string
  readonly instanceId: number
  constructor(idstr: string, instanceId: number) {
    super(`section '${idstr}' instance ${instanceId} is registered already`)
    this.idstr = idstr
    this.instanceId = instanceId
  }
}

/** A migration is running: the set of sections cannot change now. */
export class RegistrySealedError extends FerryError {
  readonly code = 'FERRY_REGISTRY_SEALED'
  readonly idstr: string
  constructor(idstr: string) {
    super(`section '${idstr}' cannot be registered while a migration is running`)
    this.idstr = idstr
  }
}
