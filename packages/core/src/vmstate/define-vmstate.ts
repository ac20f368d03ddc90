import { VmstateDefinitionError } from '../errors/vmstate-error.ts'
import { checkTable } from './check-table.ts'
import type { FieldTable } from './field.ts'
import { initialValue, resetRow } from './initial-value.ts'
import type { Row } from './row.ts'
import type { ClassTable, FullState, Vmstate, VmstateHooks, VmstateTable } from './table.ts'

/**
 * Table first: the state type is inferred from the rows. The normal case.
 * @throws VmstateDefinitionError the table contradicts itself
 */
export function defineVmstate<
  const F extends FieldTable,
  // biome-ignore lint/complexity/noBannedTypes: "no subsections" is what the empty object type says here
  const Subs extends Record<string, FieldTable> = {},
>(table: VmstateTable<F, Subs>): Vmstate<FullState<F, Subs>> {
  return freeze<FullState<F, Subs>>(table as VmstateTable<any, any>)
}

/**
 * Class first: rows are checked against `T`. For state that predates its table (a hart's registers in hot code).
 * @throws VmstateDefinitionError the table contradicts itself
 */
export function vmstateFor<T extends object>() {
  return <
    const F extends FieldTable,
    // biome-ignore lint/complexity/noBannedTypes: as above
    const Subs extends Record<string, FieldTable> = {},
  >(
    table: ClassTable<T, F, Subs>,
  ): Vmstate<T> => freeze<T>(table as unknown as VmstateTable<any, any>, table.create ?? noCreate(table.name))
}

const noCreate = (name: string) => () => {
  throw new VmstateDefinitionError('', 'a class-first table needs `create` where its objects are made while loading', {
    section: name,
  })
}

function freeze<S>(table: VmstateTable<any, any>, create?: () => S): Vmstate<S> {
  checkTable(table)
  const rows = stateRows(table)
  const hooks = table as unknown as VmstateHooks<S> & { needed?(state: S): boolean }
  const vmstate: Vmstate<S> = {
    name: table.name,
    version: table.version,
    minimumVersion: table.minimumVersion ?? table.version,
    priority: table.priority ?? 0,
    table,
    preSave: hooks.preSave,
    postSave: hooks.postSave,
    preLoad: hooks.preLoad,
    postLoad: hooks.postLoad,
    needed: hooks.needed,
    createState:
      create ??
      (() => {
        const state: Record<string, unknown> = {}
        for (const [key, row] of rows) state[key] = initialValue(row)
        return state as S
      }),
    resetState(state) {
      for (const [key, row] of rows) resetRow(row, state as Record<string, unknown>, key)
    },
  }
  return Object.freeze(vmstate)
}

/** Every row that has state, in the order of the table and then of its subsections. */
function stateRows(table: VmstateTable<any, any>): [string, Row][] {
  const tables: FieldTable[] = [table.fields]
  for (const sub of Object.values(table.subsections ?? {})) tables.push((sub as { fields: FieldTable }).fields)
  return tables
    .flatMap((fields) => Object.entries(fields) as unknown as [string, Row][])
    .filter(([, row]) => !row.padding)
}
