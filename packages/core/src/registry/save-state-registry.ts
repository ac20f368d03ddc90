import { DuplicateSectionError, RegistrySealedError } from '../errors/registry-error.ts'
import { compileVmstate } from '../vmstate/codec.ts'
import { MigrationPriority } from './migration-priority.ts'
import type { RegisterOptions, SaveStateRegistry, SectionEntry } from './registry.ts'

const LEVELS = MigrationPriority.MAX + 1

/** A section by its own name, or by the one it had before device paths. */
interface Names {
  readonly idstr: string
  readonly instanceId: number
  readonly compat?: { readonly idstr: string; readonly instanceId: number }
}

/** Entries by (name, instance id), with the next free id of a name. */
class NameTable {
  readonly #names = new Map<string, { readonly ids: Map<number, SectionEntry>; next: number }>()

  get(idstr: string, instanceId: number): SectionEntry | undefined {
    return this.#names.get(idstr)?.ids.get(instanceId)
  }

  /** One more than the largest in use. */
  nextId(idstr: string): number {
    return this.#names.get(idstr)?.next ?? 0
  }

  add(idstr: string, instanceId: number, entry: SectionEntry): void {
    let name = this.#names.get(idstr)
    if (!name) this.#names.set(idstr, (name = { ids: new Map(), next: 0 }))
    name.ids.set(instanceId, entry)
    name.next = Math.max(name.next, instanceId + 1)
  }

  delete(idstr: string, instanceId: number): void {
    const name = this.#names.get(idstr)
    if (!name) return
    name.ids.delete(instanceId)
    if (name.ids.size === 0) this.#names.delete(idstr)
    else if (name.next === instanceId + 1) {
      name.next = 0
      for (const id of name.ids.keys()) name.next = Math.max(name.next, id + 1)
    }
  }
}

/** Priority first (higher before lower), then order of registration. */
const before = (a: SectionEntry, b: SectionEntry): boolean =>
  a.priority !== b.priority ? a.priority > b.priority : a.sectionId < b.sectionId

/** An empty registry; each machine has its own. */
export function createSaveStateRegistry(): SaveStateRegistry {
  // One bucket per level: an insert is a Set.add, which keeps the order of registration by itself.
  const levels = Array.from({ length: LEVELS }, () => new Set<SectionEntry>())
  const names = new NameTable()
  const oldNames = new NameTable()
  const blockers = new Set<{ reason: string }>()
  let inOrder: readonly SectionEntry[] | undefined
  let nextSectionId = 0
  let seals = 0

  function nameOf(name: string, { instanceId, path }: RegisterOptions): Names {
    const idstr = path ? `${path}/${name}` : name
    const bytes = new TextEncoder().encode(idstr).length
    if (bytes < 1 || bytes > 255) throw new RangeError(`section name '${idstr}' has ${bytes} bytes; 1 to 255 fit`)
    if (seals > 0) throw new RegistrySealedError(idstr)
    const own = path ? names.nextId(idstr) : (instanceId ?? names.nextId(idstr))
    // A path names one place: a second section of that name is a mistake, whatever instance was asked for.
    if (path ? own !== 0 : names.get(idstr, own)) throw new DuplicateSectionError(idstr, path ? 0 : own)
    if (!path) return { idstr, instanceId: own }
    return { idstr, instanceId: own, compat: { idstr: name, instanceId: instanceId ?? oldNames.nextId(name) } }
  }

  function insert(entry: SectionEntry, compat: Names['compat']): Disposable {
    const level = levels[entry.priority]
    if (!level)
      throw new RangeError(`priority ${entry.priority} of section '${entry.idstr}' is not one of 0 to ${LEVELS - 1}`)
    level.add(entry)
    names.add(entry.idstr, entry.instanceId, entry)
    // The first of several with one old name keeps it, as a walk along the list would find that one.
    const holdsOldName = compat !== undefined && !oldNames.get(compat.idstr, compat.instanceId)
    if (holdsOldName) oldNames.add(compat.idstr, compat.instanceId, entry)
    inOrder = undefined
    return {
      [Symbol.dispose]() {
        if (!level.delete(entry)) return
        names.delete(entry.idstr, entry.instanceId)
        if (holdsOldName) oldNames.delete(compat.idstr, compat.instanceId)
        inOrder = undefined
      },
    }
  }

  return {
    register(vmstate, state, options = {}) {
      const { idstr, instanceId, compat } = nameOf(vmstate.name, options)
      const needed = options.needed ?? (() => vmstate.needed?.(state) ?? true)
      const layouts = [{ vmstate, state }, ...(options.alternatives ?? [])].map((layout) => ({
        ...layout,
        codec: compileVmstate<any>(layout.vmstate),
        rowsOnly: compileVmstate<any>({ ...layout.vmstate, postLoad: undefined }),
      }))
      const layout = (version: number) =>
        layouts.find((l) => version >= l.vmstate.minimumVersion && version <= l.vmstate.version)
      const prepare = () => {
        for (const { codec } of layouts) codec.prepare()
      }
      const entry: SectionEntry = {
        idstr,
        instanceId,
        priority: options.priority ?? vmstate.priority,
        version: vmstate.version,
        sectionId: nextSectionId++,
        owner: options.owner ?? idstr,
        device: { vmstate, codec: layouts[0]!.codec, state, needed, layout, prepare },
      }
      return insert(entry, compat)
    },
    registerLive(name, version, handlers, options = {}) {
      const { idstr, instanceId, compat } = nameOf(name, options)
      const priority = options.priority ?? MigrationPriority.DEFAULT
      const owner = options.owner ?? idstr
      return insert({ idstr, instanceId, priority, version, sectionId: nextSectionId++, owner, live: handlers }, compat)
    },
    block(reason) {
      const blocker = { reason }
      blockers.add(blocker)
      return { [Symbol.dispose]: () => void blockers.delete(blocker) }
    },
    get blockers() {
      return [...blockers].map(({ reason }) => reason)
    },
    entries() {
      return (inOrder ??= Object.freeze(levels.toReversed().flatMap((level) => [...level])))
    },
    find(idstr, instanceId) {
      const exact = names.get(idstr, instanceId)
      const old = oldNames.get(idstr, instanceId)
      if (exact && old) return before(exact, old) ? exact : old
      return exact ?? old
    },
    seal() {
      seals++
      let sealed = true
      return {
        [Symbol.dispose]() {
          if (sealed) seals--
          sealed = false
        },
      }
    },
  }
}
