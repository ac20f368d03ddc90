import { bufferReader, compileVmstate, drive, type Vmstate, type VmstateDescription } from '@ferryvm/core'
import type { VirtioLayoutFacts } from '../state/virtio-layout.ts'

/** What is known of a section before its payload is read. */
export interface SectionIdentity {
  readonly idstr: string
  readonly instanceId: number
  readonly version: number
  /** From the configuration, if it was sent. */
  readonly machine?: string
  /** `cpu` sections so far: tables of interrupt controllers depend on their number. */
  readonly harts: number
  /** idstrs of the sections before it. */
  readonly earlier: ReadonlySet<string>
  /** The table asked for is that of a virtio device's own data, in the middle of its section. */
  readonly virtio?: VirtioLayoutFacts
}
/**
 * The caller's tables: a vmstate for a section it knows, for streams (or sections) that no description covers. Few do not, so
 * that the tables may be loaded when they are asked for.
 */
export type TableLookup = (section: SectionIdentity) => Vmstate<any> | undefined | Promise<Vmstate<any> | undefined>

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
    const arrived = new Set<string>()
    const state = vmstate.createState()
    const input = bufferReader(bytes)
    drive(input, readingOnly(vmstate, version, arrived).load(state, input, version))
    const size = input.position
    const layout = readingOnly(vmstate, version, arrived, [...arrived]).describe(state)
    return { layout, bytes: size }
  } catch {
    return undefined
  }
}

/**
 * A table without what its owner does with a state: it reads, and notes which subsections came.
 * @param version the sender's, so that the description has the rows of that version
 * @param only of the subsections, in this order
 */
function readingOnly(vmstate: Vmstate<any>, version: number, arrived: Set<string>, only?: readonly string[]) {
  const all = vmstate.table.subsections ?? {}
  const subsections = Object.fromEntries(
    (only ?? Object.keys(all)).map((name) => {
      const { preSave: _1, postSave: _2, preLoad: _3, ...sub } = all[name]!
      return [name, { ...sub, needed: () => true, postLoad: () => void arrived.add(name) }]
    }),
  )
  const none = { preSave: undefined, postSave: undefined, preLoad: undefined, postLoad: undefined }
  const own = { ...vmstate, ...none, version: Math.min(vmstate.version, version) }
  return compileVmstate({ ...own, table: { ...vmstate.table, ...none, subsections } }, { engine: 'interpreted' })
}
