import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DuplicateSectionError, RegistrySealedError } from '../errors/registry-error.ts'
import { defineVmstate } from '../vmstate/define-vmstate.ts'
import { u8 } from '../vmstate/scalar-rows.ts'
import { MigrationPriority } from './migration-priority.ts'
import type { SaveVmHandlers } from './registry.ts'
import { createSaveStateRegistry } from './save-state-registry.ts'

const vmstate = (name: string, priority?: MigrationPriority) =>
  defineVmstate({ name, version: 3, priority, fields: { a: u8() } })
const add = (registry: ReturnType<typeof createSaveStateRegistry>, name: string, options = {}) =>
  registry.register(vmstate(name), { a: 0 }, options)
const names = (registry: ReturnType<typeof createSaveStateRegistry>) =>
  registry.entries().map(({ idstr, instanceId }) => `${idstr}#${instanceId}`)
const live: SaveVmHandlers = {
  saveSetup() {},
  saveLivePending: () => ({ mustPrecopy: 0, canPostcopy: 0 }),
  saveLiveIterate: () => true,
  saveLiveCompletePrecopy() {},
  *loadState() {},
}

// Spec: stream.md section 8.
describe('the order of sections', () => {
  it('an IOMMU that was registered last is saved before PCI devices, bridges before it', () => {
    const registry = createSaveStateRegistry()
    registry.registerLive('ram', 4, live)
    add(registry, 'virtio-blk', { path: '0000:00:02.0' })
    registry.register(vmstate('iommu-intel', MigrationPriority.IOMMU), { a: 0 })
    registry.register(vmstate('pci-bridge', MigrationPriority.PCI_BUS), { a: 0 })
    add(registry, 'serial')
    expect(names(registry)).toEqual(['pci-bridge#0', 'iommu-intel#0', 'ram#0', '0000:00:02.0/virtio-blk#0', 'serial#0'])
    expect(registry.entries().map((e) => e.sectionId)).toEqual([3, 2, 0, 1, 4])
  })

  it('is a stable sort by falling priority, whatever comes and goes', () => {
    const step = fc.record({ priority: fc.integer({ min: 0, max: 6 }), remove: fc.boolean() })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const registry = createSaveStateRegistry()
        const kept: { name: string; priority: number }[] = []
        steps.forEach(({ priority, remove }, i) => {
          const handle = registry.register(vmstate(`d${i}`), { a: 0 }, { priority: priority as MigrationPriority })
          if (remove) handle[Symbol.dispose]()
          else kept.push({ name: `d${i}`, priority })
        })
        const sorted = [...kept].sort((a, b) => b.priority - a.priority).map(({ name }) => `${name}#0`)
        expect(names(registry)).toEqual(sorted)
      }),
    )
  })

  it('a section id is never used again', () => {
    const registry = createSaveStateRegistry()
    add(registry, 'a')[Symbol.dispose]()
    add(registry, 'a')
    expect(registry.entries()[0]!.sectionId).toBe(1)
  })
})

// Spec: stream.md section 2.
describe('names and instances', () => {
  it('without an instance id, the next one of that name', () => {
    const registry = createSaveStateRegistry()
    add(registry, 'pflash')
    add(registry, 'pflash')
    add(registry, 'pflash', { instanceId: 7 })
    add(registry, 'pflash')
    add(registry, 'other')
    expect(names(registry)).toEqual(['pflash#0', 'pflash#1', 'pflash#7', 'pflash#8', 'other#0'])
  })

  it('one name and instance twice is an error', () => {
    const registry = createSaveStateRegistry()
    add(registry, 'cpu', { instanceId: 1 })
    expect(() => add(registry, 'cpu', { instanceId: 1 })).toThrow(DuplicateSectionError)
    add(registry, 'ide', { path: '0000:00:01.1' })
    expect(() => add(registry, 'ide', { path: '0000:00:01.1' })).toThrow("section '0000:00:01.1/ide' instance 0")
    expect(() => registry.registerLive('cpu', 1, live, { instanceId: 1 })).toThrow(DuplicateSectionError)
  })

  it('with a device path the section is also found by its old name, in the order of the list', () => {
    const registry = createSaveStateRegistry()
    add(registry, 'ide', { path: '0000:00:01.1' })
    add(registry, 'ide', { path: '0000:00:02.1' })
    add(registry, 'ide', { path: '0000:00:03.1', instanceId: 9 })
    expect(registry.find('0000:00:01.1/ide', 0)?.sectionId).toBe(0)
    expect(registry.find('0000:00:01.1/ide', 1)).toBeUndefined()
    expect([0, 1, 9].map((id) => registry.find('ide', id)?.sectionId)).toEqual([0, 1, 2])
    add(registry, 'ide', { instanceId: 0 })
    expect(registry.find('ide', 0)?.sectionId).toBe(0)
    registry.register(vmstate('ide'), { a: 0 }, { instanceId: 1, priority: MigrationPriority.IOMMU })
    expect(registry.find('ide', 1)?.sectionId).toBe(4)
  })

  it('names that do not fit the wire are refused', () => {
    expect(() => add(createSaveStateRegistry(), 'x'.repeat(200), { path: 'y'.repeat(60) })).toThrow('1 to 255 fit')
  })

  it('`needed` comes from the table unless the registration says', () => {
    const registry = createSaveStateRegistry()
    const table = defineVmstate({ name: 'd', version: 1, fields: { a: u8() }, needed: (s) => s.a > 0 })
    const state = { a: 0 }
    registry.register(table, state)
    registry.register(table, state, { needed: () => true })
    expect(registry.entries().map((e) => e.device!.needed())).toEqual([false, true])
    state.a = 1
    expect(registry.entries()[0]!.device!.needed()).toBe(true)
  })
})

describe('during a migration', () => {
  it('nothing can be registered until every seal is gone', () => {
    const registry = createSaveStateRegistry()
    const seals = [registry.seal(), registry.seal()]
    expect(() => add(registry, 'late')).toThrow(RegistrySealedError)
    seals[0]![Symbol.dispose]()
    seals[0]![Symbol.dispose]()
    expect(() => add(registry, 'late')).toThrow("section 'late' cannot be registered")
    seals[1]![Symbol.dispose]()
    add(registry, 'late')
    expect(names(registry)).toEqual(['late#0'])
  })

  it('devices that cannot be saved say so', () => {
    const registry = createSaveStateRegistry()
    const blocker = registry.block('host-passthrough: holds host file handles')
    expect(registry.blockers).toEqual(['host-passthrough: holds host file handles'])
    blocker[Symbol.dispose]()
    expect(registry.blockers).toEqual([])
  })
})
