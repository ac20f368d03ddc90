import type { UserObjects } from '@ferryvm/core'
import type { MonitorContext } from './context.ts'
import { MonitorCommandError } from './errors.ts'

export interface ObjectTreeEntry {
  readonly name: string
  readonly type: string
}
const TYPE: ObjectTreeEntry = { name: 'type', type: 'string' }

/** @throws MonitorCommandError no objects can be made here */
export function objectsOf({ objects }: MonitorContext): UserObjects {
  if (objects) return objects
  throw new MonitorCommandError('no objects can be made here')
}

/**
 * What `qom-list` shows: of QEMU's tree of objects the parts that clients of a migration look at.
 * @throws MonitorCommandError of class DeviceNotFound
 */
export function listPath(context: MonitorContext, path: string): ObjectTreeEntry[] {
  const { machine } = context
  const container = (name: string): ObjectTreeEntry => ({ name, type: 'child<container>' })
  const normal = path.replace(/\/+$/, '') || '/'
  switch (normal) {
    case '/':
      return [
        TYPE,
        container('objects'),
        container('chardevs'),
        { name: 'machine', type: `child<${machine.name}-machine>` },
      ]
    case '/objects':
      return [TYPE, ...(context.objects?.list() ?? []).map(({ id, type }) => ({ name: id, type: `child<${type}>` }))]
    case '/chardevs':
      return [TYPE, ...context.chardevs().map(({ label }) => ({ name: label, type: 'child<chardev>' }))]
    case '/machine':
      return [TYPE, container('peripheral'), container('unattached')]
    case '/machine/peripheral':
      return [TYPE, ...machine.devices.map(({ id, type }) => ({ name: id, type: `child<${type}>` }))]
    case '/machine/unattached':
      return [TYPE]
    default:
      return [TYPE, ...propertiesAt(context, normal).map(({ name, type }) => ({ name, type }))]
  }
}

/** `qom-get`. @throws MonitorCommandError */
export function propertyAt(context: MonitorContext, path: string, property: string): unknown {
  const { objects } = context
  const id = /^\/objects\/([^/]+)$/.exec(path)?.[1]
  if (property === 'type' && id !== undefined) {
    const type = objects?.list().find((object) => object.id === id)?.type
    if (type !== undefined) return type
  }
  const found = propertiesAt(context, path).find(({ name }) => name === property)
  if (!found) throw new MonitorCommandError(`Property '${path}.${property}' not found`)
  if (found.value === undefined) throw new MonitorCommandError(`${path}.${property} is a secret, which is not shown`)
  return found.value ?? ''
}

function propertiesAt({ objects }: MonitorContext, path: string) {
  const id = /^\/objects\/([^/]+)$/.exec(path)?.[1]
  const properties = id === undefined ? undefined : objects?.properties(id)
  if (!properties) throw new MonitorCommandError(`Device '${path}' not found`, 'DeviceNotFound')
  return properties
}
