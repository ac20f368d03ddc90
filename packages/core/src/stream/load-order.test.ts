import { describe, expect, it } from 'vitest'
import { bufferReader } from '../qemufile/qemufile-reader.ts'
import { bufferWriter } from '../qemufile/qemufile-writer.ts'
import { MigrationPriority } from '../registry/migration-priority.ts'
import { createSaveStateRegistry } from '../registry/save-state-registry.ts'
import { defineVmstate } from '../vmstate/define-vmstate.ts'
import { u32 } from '../vmstate/scalar-rows.ts'
import { LoadOrderError, LoadOrderSanitizer } from './load-order.ts'
import { StreamLoader } from './stream-loader.ts'
import { StreamSaver } from './stream-saver.ts'

const configuration = { machineName: 'virt' }

/** A PCI device that uses its IOMMU while it loads, and a timer that uses nobody; the IOMMU is registered last. */
function machine(iommuPriority: MigrationPriority) {
  const log: string[] = []
  const sanitizer = new LoadOrderSanitizer()
  const sections = createSaveStateRegistry()
  const add = (name: string, priority: MigrationPriority, postLoad: () => void) => {
    const vmstate = defineVmstate({ name, version: 1, priority, fields: { value: u32() }, postLoad })
    const state = vmstate.createState()
    state.value = 7
    sections.register(vmstate, state, { owner: `the ${name}` })
    return state
  }
  const disk = add('disk', MigrationPriority.DEFAULT, () => {
    sanitizer.touch('the iommu')
    log.push(`disk sees ${iommu.value}`)
  })
  add('timer', MigrationPriority.DEFAULT, () => void log.push('timer'))
  const iommu = add('iommu', iommuPriority, () => void log.push('iommu'))
  return { sections, sanitizer, log, disk, iommu }
}

async function streamOf(iommuPriority: MigrationPriority): Promise<Uint8Array> {
  const f = bufferWriter()
  const saver = new StreamSaver(f, machine(iommuPriority).sections)
  saver.begin(configuration)
  await saver.saveDevices()
  saver.end()
  return f.bytes()
}

// Spec: stream.md section 8.
describe('the order in which sections take effect', () => {
  it('is that of the stream when the stream has it right', async () => {
    const m = machine(MigrationPriority.IOMMU)
    m.iommu.value = 0
    await new StreamLoader(bufferReader(await streamOf(MigrationPriority.IOMMU)), m.sections, { configuration }).load()
    expect(m.log).toEqual(['iommu', 'disk sees 7', 'timer'])
  })

  it('is put right when a sender without priorities sent the IOMMU last, with a word about it', async () => {
    const m = machine(MigrationPriority.IOMMU)
    m.iommu.value = 0
    const warnings: string[] = []
    const warn = (message: string) => void warnings.push(message)
    const stream = await streamOf(MigrationPriority.DEFAULT)
    const loadOrder = m.sanitizer
    await new StreamLoader(bufferReader(stream), m.sections, { configuration, warn, loadOrder }).load()
    expect(m.log).toEqual(['iommu', 'disk sees 7', 'timer'])
    expect(warnings[0]).toBe('disk/0 came before iommu/0, which has a higher priority: held back')
  })

  it('does not wait for ever for a section that the sender does not have', async () => {
    const m = machine(MigrationPriority.IOMMU)
    const source = machine(MigrationPriority.DEFAULT)
    const iommu = source.sections.entries().find((e) => e.idstr === 'iommu')!
    iommu.device!.needed = () => false
    const f = bufferWriter()
    const saver = new StreamSaver(f, source.sections)
    saver.begin(configuration)
    await saver.saveDevices()
    saver.end()
    const loadOrder = m.sanitizer
    await new StreamLoader(bufferReader(f.bytes()), m.sections, { configuration, loadOrder }).load()
    expect(m.log).toEqual(['disk sees 7', 'timer'])
  })

  it('goes unnoticed without a priority, unless the sanitizer looks: it names both and the priority to give', async () => {
    const stream = await streamOf(MigrationPriority.DEFAULT)
    const silent = machine(MigrationPriority.DEFAULT)
    silent.iommu.value = 0
    await new StreamLoader(bufferReader(stream), silent.sections, { configuration }).load()
    expect(silent.log[0]).toBe('disk sees 0')

    const m = machine(MigrationPriority.DEFAULT)
    const load = new StreamLoader(bufferReader(stream), m.sections, { configuration, loadOrder: m.sanitizer }).load()
    const error: any = await load.catch((e) => e)
    expect(error).toBeInstanceOf(LoadOrderError)
    expect(error).toMatchObject({ section: 'disk/0', needs: 'iommu/0', priority: MigrationPriority.IOMMU })
    expect(error.message).toContain('give iommu/0 the priority MigrationPriority.IOMMU (1) or a higher one')
  })

  it('an error in what was held back names its section', async () => {
    const m = machine(MigrationPriority.IOMMU)
    const broken = defineVmstate({
      name: 'broken',
      version: 1,
      fields: { value: u32() },
      postLoad() {
        throw new Error('no such thing')
      },
    })
    const source = machine(MigrationPriority.DEFAULT)
    for (const { sections } of [m, source]) sections.register(broken, broken.createState())
    const f = bufferWriter()
    const saver = new StreamSaver(f, source.sections)
    saver.begin(configuration)
    await saver.saveDevices()
    saver.end()
    await expect(new StreamLoader(bufferReader(f.bytes()), m.sections, { configuration }).load()).rejects.toThrow(
      /^broken\/0/,
    )
  })
})
