import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  bufferWriter,
  createSaveStateRegistry,
  defineVmstate,
  GuestMemory,
  globalStateVmstate,
  MigrationPriority,
  StreamSaver,
  setGlobalRunState,
  u8,
  u32,
} from '@ferryvm/core'
import { RamSaver } from '@ferryvm/migration'
import { expect, it } from 'vitest'
import { root } from './harness/emu.ts'

/** The machine of docs/stream-format.md: four pages of RAM, an IOMMU, a watchdog. */
async function documentedStream(): Promise<Uint8Array> {
  const memory = new GuestMemory()
  const blocks = [memory.addBlock('board.ram', 4 * 4096)]
  blocks[0]!.bytes.fill(0xaa, 0x1000, 0x2000)
  const ram = new RamSaver(
    { memory, migratableBlocks: () => blocks, flushWriteTlb: async () => {} },
    { passMs: Number.POSITIVE_INFINITY },
  )
  const sections = createSaveStateRegistry()
  sections.registerLive(
    'ram',
    4,
    {
      saveSetup: (f) => ram.setup(f),
      saveLivePending: () => ({ mustPrecopy: 0, canPostcopy: ram.remainingBytes }),
      saveLiveIterate: (f) => ram.iterate(f),
      saveLiveCompletePrecopy: (f) => ram.complete(f),
      *loadState() {},
    },
    { instanceId: 0 },
  )
  const watchdog = defineVmstate({
    name: 'watchdog',
    version: 2,
    fields: { timeoutMs: u32(), enabled: u8() },
    subsections: { 'watchdog/barks': { fields: { barks: u32() }, needed: (s) => s.barks > 0 } },
  })
  sections.register(watchdog, { timeoutMs: 1000, enabled: 1, barks: 3 }, { path: '0000:00:02.0' })
  const iommu = defineVmstate({
    name: 'iommu',
    version: 1,
    priority: MigrationPriority.IOMMU,
    fields: { root: u32() },
  })
  sections.register(iommu, { root: 0x8020_0000 })
  const globalState = globalStateVmstate.createState()
  setGlobalRunState(globalState, 'running')
  sections.register(globalStateVmstate, globalState)

  const f = bufferWriter()
  const saver = new StreamSaver(f, sections, { settings: { sendSwitchoverStart: true } })
  saver.begin({ machineName: 'virt' })
  saver.command('OPEN_RETURN_PATH')
  saver.command('PING', Uint8Array.of(0, 0, 0, 1))
  await saver.setup()
  while (ram.remainingBytes > 0) await saver.iterate()
  await saver.complete()
  await saver.saveDevices()
  saver.end()
  return f.bytes()
}

it('docs/stream-format.md shows bytes that we send', async () => {
  const stream = await documentedStream()
  if (process.env.FERRY_SHOW_STREAM) console.log(Buffer.from(stream).toString('hex').replace(/(..)/g, '$1 '))
  const text = readFileSync(join(root, 'docs/stream-format.md'), 'utf8')
  const lines = [...text.matchAll(/^([0-9a-f]{8}) {2}((?:[0-9a-f]{2} ?)+)(?: |$)/gm)]
  expect(lines.length).toBeGreaterThan(40)
  const shown = new Set<number>()
  for (const [line, offset, bytes] of lines) {
    const at = Number.parseInt(offset!, 16)
    const wanted = bytes!.trim().split(' ')
    const sent = [...stream.subarray(at, at + wanted.length)].map((b) => b.toString(16).padStart(2, '0'))
    expect(sent, line).toEqual(wanted)
    for (let i = 0; i < wanted.length; i++) shown.add(at + i)
  }
  // All but the contents of the page, padding and the text of the description is in the document.
  expect(shown.size).toBeGreaterThan(300)
  const json = text.match(/```json\n([\s\S]*?)```/)![1]!
  const description = new TextDecoder().decode(stream.subarray(stream.indexOf(0x7b, stream.length - 2000)))
  expect(JSON.parse(json)).toEqual(JSON.parse(description))
})
