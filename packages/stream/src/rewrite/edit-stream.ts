import { StreamFieldError } from '../errors.ts'
import type { ByteSink } from '../source/byte-sink.ts'
import type { ByteSource } from '../source/byte-source.ts'
import type { WalkOptions } from '../walk/walk-stream.ts'
import { findLeaf, parseValue } from './field-path.ts'
import { type RewriteResult, rewriteStream } from './rewrite-stream.ts'

/** One field of one section, and its new value as text. */
export interface FieldAssignment {
  readonly idstr: string
  readonly instanceId: number
  readonly path: string
  readonly value: string
}

/**
 * `serial/0:ier=1`, `0000:00:01.0/virtio-blk/0:virtio=...`, `cpu/1:cpu/hyper.env.hstatus=0`.
 * @throws StreamFieldError the text does not say section, instance, field and value
 */
export function parseAssignment(text: string): FieldAssignment {
  const equals = text.indexOf('=')
  const colon = text.lastIndexOf(':', equals)
  const match = /^(.+)\/(\d+)$/s.exec(text.slice(0, Math.max(0, colon)))
  if (equals < 0 || colon < 0 || !match || colon + 1 === equals)
    throw new StreamFieldError(`"${text}": expected section/instance:field=value, as in serial/0:ier=1`)
  return {
    idstr: match[1]!,
    instanceId: Number(match[2]),
    path: text.slice(colon + 1, equals),
    value: text.slice(equals + 1),
  }
}

/**
 * Writes the stream with other values in some fields.
 * @throws StreamFieldError a field is not there or a value does not fit
 * @throws StreamRewriteError the stream is damaged
 */
export async function editStream(
  source: ByteSource,
  sink: ByteSink,
  assignments: readonly FieldAssignment[],
  options: WalkOptions = {},
): Promise<RewriteResult> {
  const left = new Set(assignments)
  const result = await rewriteStream(
    source,
    sink,
    {
      keepDescription: true,
      section({ idstr, instanceId, version }, state) {
        const mine = assignments.filter((a) => a.idstr === idstr && a.instanceId === instanceId)
        if (mine.length === 0) return undefined
        const name = `${idstr}/${instanceId}`
        if (!state) throw new StreamFieldError(`${name}: nothing describes the fields of this section`)
        for (const assignment of mine) {
          const leaf = findLeaf(state, assignment.path, name)
          leaf.field.values[leaf.index] = parseValue(assignment.value, leaf)
          left.delete(assignment)
        }
        return { version, state }
      },
    },
    options,
  )
  for (const { idstr, instanceId } of left)
    throw new StreamFieldError(`there is no section ${idstr}/${instanceId} in the stream`)
  return result
}
