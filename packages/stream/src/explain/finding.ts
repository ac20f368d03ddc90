/**
 * `rejected`: the receiver fails. `depends`: it fails unless it was started in a certain way. `note`: it loads, and something
 * is worth knowing. `unknown`: nothing here says.
 */
export type FindingKind = 'rejected' | 'depends' | 'note' | 'unknown'
export interface Finding {
  readonly kind: FindingKind
  /** Section, RAM block, command; empty: the stream as a whole. */
  readonly where: string
  readonly what: string
  /** In the receiver's own words. */
  readonly message?: string
  readonly wayOut?: string
  readonly offset?: number
}

/** The two messages have two spaces and none, as stock prints them. */
export function versionFinding(
  where: string,
  name: string,
  version: number,
  minimum: number,
  maximum: number,
  receiver: string,
): Finding | undefined {
  const reads = minimum === maximum ? `${minimum}` : `${minimum} to ${maximum}`
  const what = `${name} has version ${version}; ${receiver} reads ${reads}`
  if (version > maximum)
    return {
      kind: 'rejected',
      where,
      what,
      message: `savevm: unsupported version ${version} for '${name}' v${maximum}`,
    }
  if (version < minimum)
    return {
      kind: 'rejected',
      where,
      what,
      message: `${name}: incoming version_id ${version} is too old for local minimum version_id  ${minimum}`,
    }
  return undefined
}
