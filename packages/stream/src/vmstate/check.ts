import type { DumpedField, DumpedTable, VmstateDump } from './dump.ts'

export interface VmstateChange {
  /** Device and where in its table. */
  readonly where: string
  readonly what: string
  /** Why it matters, for migration. */
  readonly why: string
  /**
   * `breaks`: streams of the old build do not load in the new one. `forward`: the old build does not load what the new one
   * sends. `harmless`: neither.
   */
  readonly effect: 'breaks' | 'forward' | 'harmless'
}

/** What changed between two builds, and what it does to streams between them. */
export function checkDumps(older: VmstateDump, newer: VmstateDump): VmstateChange[] {
  // QEMU writes counts of elements since some release after 7.2: they say something only where both have them.
  const counted = [older, newer].every(({ devices }) => devices.some((d) => hasCounts(d.table)))
  const [before, after] = counted ? [older, newer] : [withoutCounts(older), withoutCounts(newer)]
  const changes: VmstateChange[] = []
  if (before.machine !== after.machine)
    changes.push({
      where: 'machine',
      what: `${before.machine ?? 'not said'} became ${after.machine ?? 'not said'}`,
      why: 'a stream names its machine, and the name must be the same',
      effect: 'breaks',
    })
  const now = new Map(after.devices.map((d) => [d.type, d.table]))
  const then = new Map(before.devices.map((d) => [d.type, d.table]))
  for (const [type, table] of then) {
    const current = now.get(type)
    if (current) changes.push(...checkTable(type, table, current))
    else
      changes.push({
        where: type,
        what: 'the device is gone',
        why: `a stream with section ${table.name} finds nobody to load it`,
        effect: 'breaks',
      })
  }
  for (const [type, table] of now)
    if (!then.has(type))
      changes.push({
        where: type,
        what: 'the device is new',
        why: `the old build does not know section ${table.name}; machines without the device are not affected`,
        effect: 'harmless',
      })
  return changes
}

const hasCounts = (table: DumpedTable): boolean =>
  table.fields.some((f) => f.count !== undefined || (f.table && hasCounts(f.table))) ||
  table.subsections.some(hasCounts)
const withoutCounts = (dump: VmstateDump): VmstateDump => {
  const strip = (table: DumpedTable): DumpedTable => ({
    ...table,
    fields: table.fields.map(({ count: _, table: nested, ...rest }) => ({
      ...rest,
      ...(nested && { table: strip(nested) }),
    })),
    subsections: table.subsections.map(strip),
  })
  return { ...dump, devices: dump.devices.map((d) => ({ ...d, table: strip(d.table) })) }
}

/** Versions of nested structs do not travel: both sides use their own. Spec: vmstate.md section 5. */
function* checkNested(where: string, before: DumpedTable, after: DumpedTable): Generator<VmstateChange> {
  const current = {
    ...after,
    fields: after.fields.map((f) => ({ ...f, sinceVersion: f.sinceVersion <= after.version ? 0 : f.sinceVersion })),
  }
  yield* checkFields(where, before, current)
  yield* checkSubsections(where, before, after)
}

function* checkTable(where: string, before: DumpedTable, after: DumpedTable): Generator<VmstateChange> {
  if (before.name !== after.name)
    yield { where, what: `${before.name} became ${after.name}`, why: 'sections are found by name', effect: 'breaks' }
  const range = (t: DumpedTable) => `${t.minimumVersion} to ${t.version}`
  if (after.version < before.version)
    yield {
      where,
      what: `version ${before.version} became ${after.version}`,
      why: `the new build refuses what the old one sends as newer than itself (it reads ${range(after)})`,
      effect: 'breaks',
    }
  else if (after.minimumVersion > before.version)
    yield {
      where,
      what: `the oldest version that loads is ${after.minimumVersion}; the old build sends ${before.version}`,
      why: 'streams of the old build are too old',
      effect: 'breaks',
    }
  else if (after.minimumVersion > before.minimumVersion)
    yield {
      where,
      what: `versions ${before.minimumVersion} to ${after.minimumVersion - 1} no longer load`,
      why: 'the old build could read streams of still older ones that the new one refuses',
      effect: 'breaks',
    }
  if (after.version > before.version)
    yield {
      where,
      what: `version ${before.version} became ${after.version}`,
      why: 'the old build refuses what the new one sends; a subsection that is sent only when needed would not have that effect',
      effect: 'forward',
    }
  yield* checkFields(where, before, after)
  yield* checkSubsections(where, before, after)
}

function* checkSubsections(where: string, before: DumpedTable, after: DumpedTable): Generator<VmstateChange> {
  const then = new Map(before.subsections.map((s) => [s.name, s]))
  for (const sub of after.subsections) {
    const old = then.get(sub.name)
    then.delete(sub.name)
    if (old) yield* checkTable(`${where} > ${sub.name}`, old, sub)
    else
      yield {
        where,
        what: `subsection ${sub.name} is new`,
        why: 'the old build refuses a stream that has it; it loads those in which it was not needed',
        effect: 'forward',
      }
  }
  for (const name of then.keys())
    yield { where, what: `subsection ${name} is gone`, why: 'a stream that has it is refused', effect: 'breaks' }
}

/** Bytes that a stream of the old version has, against those that the new build takes for that version. */
function* checkFields(where: string, before: DumpedTable, after: DumpedTable): Generator<VmstateChange> {
  const then = before.fields.filter((f) => f.sinceVersion <= before.version)
  const now = after.fields.filter((f) => f.sinceVersion <= before.version)
  const newer = after.fields.filter((f) => f.sinceVersion > before.version)
  for (const field of newer)
    yield {
      where: `${where} > ${field.name}`,
      what: `the field is new, from version ${field.sinceVersion} on`,
      why: 'older streams leave it as it is',
      effect: 'harmless',
    }
  const oldNames = then.map((f) => f.name)
  const newNames = now.map((f) => f.name)
  let i = 0
  let j = 0
  while (i < then.length || j < now.length) {
    const old = then[i]
    const current = now[j]
    if (old && current && (old.name === current.name || isRetired(old, current))) {
      yield* checkField(`${where} > ${old.name}`, old, current)
      i++
      j++
    } else if (old && (!current || !newNames.includes(old.name, j))) {
      // Renamed: the same bytes under another name. The wire has no names of fields.
      if (current && !oldNames.includes(current.name, i) && sameBytes(old, current)) {
        yield {
          where: `${where} > ${old.name}`,
          what: `the field is now called ${current.name}`,
          why: 'names of fields do not travel; its bytes are the same',
          effect: 'harmless',
        }
        j++
      } else
        yield {
          where: `${where} > ${old.name}`,
          what: 'the field is gone',
          why: 'its bytes are still in older streams, and everything behind them is read from the wrong place; keep them as unused(n)',
          effect: 'breaks',
        }
      i++
    } else if (current && !oldNames.includes(current.name, i)) {
      yield {
        where: `${where} > ${current.name}`,
        what: current.conditional
          ? 'the field is new, under a condition'
          : 'the field is new in a version that is older than it',
        why: current.conditional
          ? 'it breaks older streams where the condition holds for them'
          : 'older streams do not have its bytes; give it a `since` and the table a new version, or put it into a subsection',
        effect: 'breaks',
      }
      j++
    } else {
      yield {
        where: `${where} > ${(old ?? current)!.name}`,
        what: 'the fields are in another order',
        why: 'bytes are read in the order of the table',
        effect: 'breaks',
      }
      return
    }
  }
}

const sameBytes = (a: DumpedField, b: DumpedField): boolean =>
  a.size === b.size && a.count === b.count && a.conditional === b.conditional && !a.table === !b.table
/** A field that became `unused` of the same size. */
const isRetired = (old: DumpedField, current: DumpedField): boolean =>
  current.type === 'unused_buffer' && old.size * (old.count ?? 1) === current.size * (current.count ?? 1)

function* checkField(where: string, before: DumpedField, after: DumpedField): Generator<VmstateChange> {
  if (isRetired(before, after)) {
    if (before.type !== after.type)
      yield { where, what: 'the field is retired', why: 'its bytes are still skipped', effect: 'harmless' }
    return
  }
  if (before.size !== after.size && !(before.table && after.table))
    yield {
      where,
      what: `${before.size} bytes became ${after.size}`,
      why: 'everything behind it is read from the wrong place',
      effect: 'breaks',
    }
  // QEMU's own dumps say no types.
  else if (before.type !== undefined && after.type !== undefined && before.type !== after.type)
    yield {
      where,
      what: `${before.type} became ${after.type}`,
      why: 'the same bytes mean something else now; whether that matters is for you to say',
      effect: 'breaks',
    }
  if (before.count !== after.count)
    yield {
      where,
      what: `${before.count ?? 1} elements became ${after.count ?? 1}`,
      why: 'counts do not travel: everything behind it is read from the wrong place',
      effect: 'breaks',
    }
  if (before.conditional !== after.conditional)
    yield {
      where,
      what: after.conditional ? 'the field got a condition' : 'the field lost its condition',
      why: 'where the condition does not hold, one side has bytes that the other does not expect',
      effect: 'breaks',
    }
  if (before.table && after.table) yield* checkNested(where, before.table, after.table)
}

/** Changes for people, the worst first. */
export function* checkText(changes: readonly VmstateChange[]): Generator<string> {
  if (changes.length === 0) yield 'nothing that travels has changed'
  for (const effect of ['breaks', 'forward', 'harmless'] as const)
    for (const { where, what, why } of changes.filter((c) => c.effect === effect)) {
      yield `${effect} ${where}: ${what}`
      yield `    ${why}`
    }
}
