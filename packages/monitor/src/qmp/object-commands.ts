import { z } from 'zod'
import { listPath, objectsOf, propertyAt } from '../object-tree.ts'
import { command, type QmpCommand } from './define-command.ts'

/** Objects that others refer to by id: credentials of TLS, secrets, who may come. */
export const objectCommands: readonly QmpCommand[] = [
  {
    name: 'object-add',
    // Which properties there are, and their types, is known to whoever makes the objects.
    args: z.looseObject({
      'qom-type': z.string(),
      id: z.string(),
      props: z.record(z.string(), z.unknown()).optional(),
    }),
    run: (context, { 'qom-type': type, id, props, ...properties }) =>
      objectsOf(context).add(type, id, { ...props, ...properties }),
  },
  command('object-del', { id: z.string() }, (context, { id }) => objectsOf(context).remove(id)),
  command('qom-list', { path: z.string() }, (context, { path }) => listPath(context, path)),
  command('qom-get', { path: z.string(), property: z.string() }, (context, { path, property }) =>
    propertyAt(context, path, property),
  ),
]
