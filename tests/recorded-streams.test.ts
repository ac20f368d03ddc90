import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { zstdDecompressSync } from 'node:zlib'
import {
  buffer,
  bufferReader,
  bufferWriter,
  createSaveStateRegistry,
  defineVmstate,
  Element,
  GuestMemory,
  globalRunState,
  globalStateVmstate,
  MigrationPriority,
  type SaveVmHandlers,
  type StreamConfiguration,
  StreamLoader,
  StreamSaver,
} from '@ferryvm/core'
import { RamLoader, RamSaver } from '@ferryvm/migration'
import { describe, expect, it } from 'vitest'

/** Streams that stock QEMU 7.2 and 10.0 wrote, against our container and RAM code. */
const folder = resolve(import.meta.dirname, '../../shared/streams')
interface Recorded {
  name: string
  file: string
  vmdesc: string
  qemu_version: string
  stream_bytes: number
  configuration: { name: string; subsections: unknown[] }
  sections: {
    type: string
    section_id: number
    idstr: string
    instance_id: number
    version_id: number
    body_len: number
  }[]
  ram_blocks: { idstr: string; used_length: number; sha256_after_load: string }[]
  runstate: string
}
const recorded: Recorded[] = existsSync(folder)
  ? JSON.parse(readFileSync(resolve(folder, 'manifest.json'), 'utf8')).streams
  : []
if (recorded.length === 0) console.log('recorded streams: ../shared/streams is not here; skipped')

function build(stream: Recorded) {
  const memory = new GuestMemory()
  const blocks = stream.ram_blocks.map((b) => memory.addBlock(b.idstr, b.used_length))
  const sections = createSaveStateRegistry()
  const ramLoader = new RamLoader(memory, () => blocks)
  ramLoader.begin()
  // One pass, however slow the host is: stock's recordings have one.
  const ramSaver = new RamSaver(
    { memory, migratableBlocks: () => blocks, flushWriteTlb: async () => {} },
    { passMs: Number.POSITIVE_INFINITY },
  )
  const ram: SaveVmHandlers = {
    saveSetup: (f) => ramSaver.setup(f),
    saveLivePending: () => ({ mustPrecopy: 0, canPostcopy: ramSaver.remainingBytes }),
    saveLiveIterate: (f) => ramSaver.iterate(f),
    saveLiveCompletePrecopy: (f) => ramSaver.complete(f),
    loadState: (f, version) => ramLoader.load(f, version),
  }
  const globalState = globalStateVmstate.createState()
  // Section ids count registrations, including those of handlers that send nothing: so do we, to get the same ids.
  const byId = new Map(stream.sections.map((s) => [s.section_id, s]))
  for (let id = 0; id <= Math.max(...byId.keys()); id++) {
    const s = byId.get(id)
    if (!s) {
      const silent = defineVmstate({ name: `silent-${id}`, version: 1, fields: { none: buffer(1) } })
      sections.register(silent, silent.createState(), { needed: () => false })
    } else if (s.idstr === 'ram') sections.registerLive('ram', 4, ram, { instanceId: 0 })
    else if (s.idstr === 'globalstate') sections.register(globalStateVmstate, globalState, { instanceId: 0 })
    else {
      const slash = s.idstr.lastIndexOf('/')
      const opaque = defineVmstate({
        name: s.idstr.slice(slash + 1),
        version: s.version_id,
        minimumVersion: 0,
        // Spec: stream.md section 8; among the recorded devices only IOMMUs have a priority.
        priority: /(^|\/)(iommu-intel|virtio-iommu)$/.test(s.idstr)
          ? MigrationPriority.IOMMU
          : MigrationPriority.DEFAULT,
        fields: { bytes: buffer(s.body_len) },
      })
      const place = slash < 0 ? { instanceId: s.instance_id } : { path: s.idstr.slice(0, slash) }
      sections.register(opaque, opaque.createState(), place)
    }
  }
  const configuration: StreamConfiguration = { machineName: stream.configuration.name }
  return { memory, blocks, sections, globalState, configuration, ramSaver }
}

describe.skipIf(recorded.length === 0)('recorded streams', () => {
  it.each(recorded.map((s) => [s.name, s] as const))('%s', async (_, stream) => {
    const bytes = zstdDecompressSync(readFileSync(resolve(folder, stream.file)))
    const { blocks, sections, globalState, configuration, ramSaver } = build(stream)
    const seen: unknown[] = []
    const commands: string[] = []
    const loader = new StreamLoader(bufferReader(bytes), sections, {
      configuration,
      keepDescription: true,
      onSection: (s) => {
        seen.push({
          type: s.type,
          section_id: s.sectionId,
          idstr: s.idstr,
          instance_id: s.instanceId,
          version_id: s.version,
          body_len: s.bytes,
        })
      },
      onCommand: ({ name }) => void commands.push(name),
    })
    const result = await loader.load()
    expect(result.bytes).toBe(stream.stream_bytes)
    expect(seen).toEqual(stream.sections)
    expect(commands).toEqual(stream.qemu_version.startsWith('10.') ? ['SWITCHOVER_START'] : [])
    const description = JSON.parse(readFileSync(resolve(folder, stream.vmdesc), 'utf8'))
    expect(JSON.stringify(JSON.parse(result.description!)) === JSON.stringify(description)).toBe(true)
    expect(globalRunState(globalState)).toBe(stream.runstate)
    for (const [i, block] of blocks.entries()) {
      const { sha256_after_load } = stream.ram_blocks[i]!
      expect(createHash('sha256').update(block.bytes).digest('hex'), block.idstr).toBe(sha256_after_load)
    }

    // And back. A guest that did not run while it was sent gives one pass over its memory, hence the same bytes as stock's.
    const f = bufferWriter()
    const saver = new StreamSaver(f, sections, {
      settings: { sendSwitchoverStart: stream.qemu_version.startsWith('10.') },
    })
    saver.begin(configuration)
    await saver.setup()
    while (ramSaver.remainingBytes > 0) await saver.iterate()
    await saver.complete()
    await saver.saveDevices()
    f.putByte(Element.EOF)
    const ours = f.bytes()
    const parts = stream.sections.filter((s) => s.type === 'part').length
    const ended = stream.sections.some((s) => s.type === 'end' && s.body_len > 8)
    if (parts === 1 && !ended) {
      expect(Buffer.compare(ours, bytes.subarray(0, ours.length)), 'the stream up to its end').toBe(0)
    } else {
      await new StreamLoader(bufferReader(ours), sections, { configuration }).load()
    }
  })
})
