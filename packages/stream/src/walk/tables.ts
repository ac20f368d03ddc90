import { bufferReader, compileVmstate, drive, type Vmstate, type VmstateDescription } from '@ferryvm/core'

/** What is known of a section before its payload is read. */
export interface SectionIdentity {
  readonly idstr: string
  readonly instanceId: number
  readonly version: number
  /** From the configuration, if it was sent. */
  readonly machine?: string
  /** `cpu` sections so far: tables of interrupt controllers depend on their number. */
  readonly harts: number
}
/** The caller's tables: a vmstate for a section it knows, for streams (or sections) that no description covers. */
export type TableLookup = (section: SectionIdentity) => Vmstate<any> | undefined

/**
 * Reads a payload by a table, to learn its layout.
 * @param bytes everything from the payload's first byte on; what follows it does no harm
 * @returns undefined: the bytes are not what the table says
 */
export function layoutByTable(
  vmstate: Vmstate<any>,
  version: number,
  bytes: Uint8Array,
): { layout: VmstateDescription; bytes: number } | undefined {
  try {
    const codec = compileVmstate(vmstate, { engine: 'interpreted' })
    const state = vmstate.createState()
    const input = bufferReader(bytes)
    drive(input, codec.load(state, input, version))
    const size = input.position
    const layout = codec.describe(state)
    return { layout, bytes: size }
  } catch {
    return undefined
  }
}
