import { describe, expect, it } from 'vitest'
import { FerryError } from '../errors/ferry-error.ts'
import { bufferReader } from '../qemufile/qemufile-reader.ts'
import { bufferWriter } from '../qemufile/qemufile-writer.ts'
import { MigrationPriority } from '../registry/migration-priority.ts'
import { createSaveStateRegistry } from '../registry/save-state-registry.ts'
import { u8Array } from '../vmstate/array-rows.ts'
import { defineVmstate } from '../vmstate/define-vmstate.ts'
import { u16, u32 } from '../vmstate/scalar-rows.ts'
import type { StreamConfiguration } from './configuration.ts'
import { globalRunState, globalStateVmstate, setGlobalRunState } from './global-state.ts'
import { StreamLoader, type StreamLoaderOptions } from './stream-loader.ts'
import { StreamSaver, type StreamSaverOptions } from './stream-saver.ts'

const text = (s: string) => [...new TextEncoder().encode(s)]
const be32 = (n: number) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]
const str8 = (s: string) => [s.length, ...text(s)]
const MAGIC = [0x51, 0x45, 0x56, 0x4d]
const HEADER = [...MAGIC, 0, 0, 0, 3]
const CONFIG = [7, ...be32(4), ...text('virt')]
const full = (id: number, idstr: string, instance: number, version: number, payload: number[]) => [
  4,
  ...be32(id),
  ...str8(idstr),
  ...be32(instance),
  ...be32(version),
  ...payload,
  0x7e,
  ...be32(id),
]
const EOF = 0

const dev = defineVmstate({
  name: 'dev',
  version: 2,
  minimumVersion: 2,
  fields: { a: u16(), b: u32() },
  subsections: { 'dev/more': { fields: { more: u32() }, needed: (s) => s.more !== 0 } },
})
const iommu = defineVmstate({ name: 'iommu', version: 1, priority: MigrationPriority.IOMMU, fields: { root: u32() } })

function machine() {
  const sections = createSaveStateRegistry()
  const live = { start: 0, loaded: [] as string[] }
  sections.registerLive('ram', 4, {
    saveSetup: (f) => f.putByte(1),
    saveLivePending: () => ({ mustPrecopy: 0, canPostcopy: 0 }),
    saveLiveIterate: (f) => {
      f.putByte(2)
      return true
    },
    saveLiveCompletePrecopy: (f) => f.putByte(3),
    *loadState(f) {
      if (f.available < 1) yield 1
      live.loaded.push(String(f.getByte()))
    },
  })
  const d = dev.createState()
  sections.register(dev, d, { path: '0000:00:01.0' })
  const i = iommu.createState()
  sections.register(iommu, i)
  const g = globalStateVmstate.createState()
  setGlobalRunState(g, 'running')
  sections.register(globalStateVmstate, g)
  return { sections, d, i, g, live }
}
const configuration: StreamConfiguration = { machineName: 'virt', validatedCapabilities: { 'x-ignore-shared': false } }
async function load(bytes: number[] | Uint8Array, options: Partial<StreamLoaderOptions> = {}) {
  const m = machine()
  const loader = new StreamLoader(bufferReader(Uint8Array.from(bytes)), m.sections, { configuration, ...options })
  return { ...m, result: await loader.load() }
}
async function save(m = machine(), options: StreamSaverOptions = {}, c = configuration): Promise<Uint8Array> {
  const f = bufferWriter()
  const saver = new StreamSaver(f, m.sections, options)
  saver.begin(c)
  await saver.setup()
  await saver.iterate()
  await saver.complete()
  await saver.saveDevices()
  saver.end()
  return f.bytes()
}
const codeOf = (bytes: number[] | Uint8Array, options?: Partial<StreamLoaderOptions>) =>
  load(bytes, options).then(
    () => 'loaded',
    (e: unknown) => (FerryError.isInstance(e) ? e.code : `not ours: ${e}`),
  )
const messageOf = (bytes: number[], options?: Partial<StreamLoaderOptions>) =>
  load(bytes, options).then(
    () => 'loaded',
    (e: Error) => e.message,
  )

describe('the container (stream.md sections 1 to 6)', () => {
  it('writes and reads itself, sections by priority', async () => {
    const m = machine()
    Object.assign(m.d, { a: 0x1234, b: 5, more: 9 })
    m.i.root = 7
    setGlobalRunState(m.g, 'paused')
    const bytes = await save(m)
    expect([...bytes.subarray(0, 17)]).toEqual([...HEADER, ...CONFIG])
    const order: string[] = []
    const { d, i, g, live, result } = await load(bytes, {
      keepDescription: true,
      onSection: (s) => order.push(`${s.type} ${s.idstr}/${s.instanceId} ${s.priority} ${s.bytes}`),
    })
    expect(order).toEqual([
      'start ram/0 0 1',
      'part ram/0 0 1',
      'end ram/0 0 1',
      'full iommu/0 1 4',
      'full 0000:00:01.0/dev/0 0 24',
      'full globalstate/0 0 104',
    ])
    expect([d.a, d.b, d.more, i.root, globalRunState(g)]).toEqual([0x1234, 5, 9, 7, 'paused'])
    expect(live.loaded).toEqual(['1', '2', '3'])
    expect(result.bytes).toBe(bytes.length)
    const description = JSON.parse(result.description!)
    expect(Object.keys(description)).toEqual(['configuration', 'page_size', 'devices'])
    expect(description.devices.map((x: { name: string }) => x.name)).toEqual([
      'iommu',
      '0000:00:01.0/dev',
      'globalstate',
    ])
    expect(result.description!.startsWith('{"configuration": {"vmsd_name": "configuration", "version": 1, ')).toBe(true)
  })

  it('globalstate has the bytes of the reference (section 9)', async () => {
    const m = machine()
    setGlobalRunState(m.g, 'prelaunch')
    const bytes = await save(m, { settings: { suppressVmdesc: true } })
    const payload = bytes.subarray(bytes.length - 1 - 5 - 104, bytes.length - 1 - 5)
    expect([...payload]).toEqual([
      ...be32(10),
      ...text('prelaunch'),
      ...new Array(23).fill(0),
      1,
      0,
      ...new Array(66).fill(0),
    ])
    // The older layout, 100 bytes of name, reads the same.
    const old = [...be32(8), ...text('running'), ...new Array(93).fill(0)]
    const { g } = await load([...HEADER, ...CONFIG, ...full(9, 'globalstate', 0, 1, old), EOF])
    expect(globalRunState(g)).toBe('running')
    const unknown = [...be32(5), ...text('jogs'), ...new Array(96).fill(0)]
    expect(await messageOf([...HEADER, ...CONFIG, ...full(9, 'globalstate', 0, 1, unknown), EOF])).toContain(
      '"jogs" is no run state',
    )
  })

  it('every setting that changes the bytes (section 11)', async () => {
    const bare = { sendConfiguration: false, sendSectionFooter: false, suppressVmdesc: true }
    const bytes = await save(machine(), { settings: { ...bare, sendSwitchoverStart: true } })
    expect([...bytes.subarray(0, 9)]).toEqual([...HEADER, 1])
    expect(Buffer.from(bytes).includes(Buffer.from([8, 0, 11, 0, 0, 3]))).toBe(true)
    expect(bytes.at(-1)).toBe(0)
    expect(await codeOf(bytes, { settings: bare })).toBe('loaded')
    expect(await codeOf(bytes)).toBe('FERRY_STREAM_CONFIGURATION')
  })

  it('configuration subsections (section 3), byte for byte', async () => {
    const uuid = Uint8Array.from(Buffer.from('00112233445566778899aabbccddeeff', 'hex'))
    const c = {
      ...configuration,
      uuid,
      sendUuid: true,
      validatedCapabilities: { 'x-ignore-shared': true },
      targetPageBits: 14,
    }
    const bytes = Buffer.from(await save(machine(), {}, c))
    const want = [
      [5, ...str8('configuration/target-page-bits'), ...be32(1), ...be32(14)],
      [5, ...str8('configuration/capabilities'), ...be32(1), ...be32(1), ...str8('x-ignore-shared')],
      [5, ...str8('configuration/uuid'), ...be32(1), ...uuid],
    ].flat()
    expect([...bytes.subarray(17, 17 + want.length)]).toEqual(want)
    expect(await codeOf(bytes, { configuration: c })).toBe('loaded')
    expect(await messageOf([...bytes], { configuration: { ...c, targetPageBits: 12 } })).toContain(
      'pages have 14 bits, ours 12',
    )
    expect(
      await messageOf([...bytes], { configuration: { ...c, validatedCapabilities: { 'x-ignore-shared': false } } }),
    ).toContain('x-ignore-shared is off here and on there')
    expect(await messageOf([...bytes], { configuration: { ...c, uuid: new Uint8Array(16) } })).toContain(
      'the sender is 0011',
    )
    const warnings: string[] = []
    expect(await codeOf(bytes, { configuration: { ...c, uuid: undefined }, warn: (w) => warnings.push(w) })).toBe(
      'loaded',
    )
    expect(warnings).toEqual(['the sender has a UUID, this machine has none'])
  })
})

describe('what cannot be loaded (stream.md section 10)', () => {
  const devFull = (payload = [0, 1, 0, 0, 0, 2]) => full(5, '0000:00:01.0/dev', 0, 2, payload)
  it.each<[string, number[], string, RegExp]>([
    ['another magic', [1, 2, 3, 4], 'FERRY_STREAM_MAGIC', /starts with 0x1020304/],
    ['version 2', [...MAGIC, ...be32(2)], 'FERRY_STREAM_VERSION', /version 2/],
    ['no configuration', [...HEADER, EOF], 'FERRY_STREAM_CONFIGURATION', /missing/],
    [
      'another machine',
      [...HEADER, 7, ...be32(2), ...text('pc')],
      'FERRY_STREAM_CONFIGURATION',
      /is a "pc", this machine is a "virt"/,
    ],
    ['a longer name', [...HEADER, 7, ...be32(5), ...text('virt2')], 'FERRY_STREAM_CONFIGURATION', /"virt2"/],
    ['a name of 2 GiB', [...HEADER, 7, ...be32(0x80000000)], 'FERRY_STREAM_CONFIGURATION', /2147483648 bytes/],
    [
      'an unknown subsection',
      [...HEADER, ...CONFIG, 5, ...str8('configuration/x'), ...be32(1)],
      'FERRY_STREAM_CONFIGURATION',
      /unknown subsection/,
    ],
    ['an empty idstr', [...HEADER, ...CONFIG, ...full(1, '', 0, 1, [])], 'FERRY_STREAM_UNKNOWN_SECTION', /empty name/],
    [
      'an unknown device',
      [...HEADER, ...CONFIG, ...full(1, 'gpu', 3, 1, [])],
      'FERRY_STREAM_UNKNOWN_SECTION',
      /gpu\/3 is unknown.*offset 0x11/,
    ],
    [
      'a newer version',
      [...HEADER, ...CONFIG, ...full(1, 'iommu', 0, 2, [])],
      'FERRY_STREAM_SECTION_VERSION',
      /iommu\/0 has version 2; this build reads up to 1/,
    ],
    [
      'an older version',
      [...HEADER, ...CONFIG, ...full(1, '0000:00:01.0/dev', 0, 1, [])],
      'FERRY_VMSTATE_VERSION',
      /0000:00:01.0\/dev\/0: cannot load version 1/,
    ],
    [
      'a part of nothing',
      [...HEADER, ...CONFIG, 2, ...be32(0)],
      'FERRY_STREAM_SECTION_SEQUENCE',
      /id 0 was never started/,
    ],
    [
      'a part of a device',
      [...HEADER, ...CONFIG, ...devFull(), 2, ...be32(5)],
      'FERRY_STREAM_SECTION_SEQUENCE',
      /has no parts/,
    ],
    [
      'no footer',
      [...HEADER, ...CONFIG, ...devFull().slice(0, -5), EOF, 0, 0, 0, 0],
      'FERRY_STREAM_FOOTER',
      /dev\/0: 0x0 follows/,
    ],
    [
      'another footer',
      [...HEADER, ...CONFIG, ...devFull().slice(0, -1), 6],
      'FERRY_STREAM_FOOTER',
      /id 6 instead of 5/,
    ],
    [
      'an unknown element',
      [...HEADER, ...CONFIG, ...devFull(), 0x42],
      'FERRY_STREAM_ELEMENT',
      /0x42 starts no known element after section 0000:00:01.0\/dev\/0/,
    ],
    ['command 0', [...HEADER, ...CONFIG, 8, 0, 0, 0, 0], 'FERRY_STREAM_COMMAND', /unknown command/],
    ['command 12', [...HEADER, ...CONFIG, 8, 0, 12, 0, 0], 'FERRY_STREAM_COMMAND', /unknown command/],
    [
      'a long PING',
      [...HEADER, ...CONFIG, 8, 0, 2, 0, 5],
      'FERRY_STREAM_COMMAND',
      /PING has 4 bytes of payload, not 5/,
    ],
    ['postcopy', [...HEADER, ...CONFIG, 8, 0, 5, 0, 0], 'FERRY_STREAM_COMMAND', /POSTCOPY_RUN: not expected/],
    [
      'an unknown subsection of a device',
      [...HEADER, ...CONFIG, ...devFull([0, 1, 0, 0, 0, 2, 5, ...str8('dev/odd'), ...be32(1)])],
      'FERRY_VMSTATE_SUBSECTION',
      /dev\/odd/,
    ],
    [
      'a cut device',
      [...HEADER, ...CONFIG, ...devFull().slice(0, 33)],
      'FERRY_VMSTATE_TRUNCATED',
      /0000:00:01.0\/dev\/0 > /,
    ],
    ['a cut description', [...HEADER, ...CONFIG, EOF, 6, ...be32(10), 1, 2], 'FERRY_STREAM_TRUNCATED', /ended/],
  ])('%s', async (_, bytes, code, message) => {
    expect(await codeOf(bytes)).toBe(code)
    expect(await messageOf(bytes)).toMatch(message)
  })

  it('but these are fine: a prefix of our name, no description, something odd behind the end, a section twice', async () => {
    const warnings: string[] = []
    const warn = (w: string) => warnings.push(w)
    expect(await codeOf([...HEADER, 7, ...be32(3), ...text('vir'), EOF], { warn })).toBe('loaded')
    expect(await codeOf([...HEADER, ...CONFIG, EOF, 0x42], { warn })).toBe('loaded')
    expect(warnings).toEqual(['the stream has no description', '0x42 follows the end of the stream'])
    expect(await codeOf([...HEADER, ...CONFIG, ...devFull(), ...devFull(), EOF])).toBe('loaded')
    expect(await codeOf([...HEADER, ...CONFIG, 8, 0, 11, 0, 0, EOF])).toBe('loaded')
  })

  it('more sections than anybody has are refused', async () => {
    const one = devFull()
    const bytes = new Uint8Array(HEADER.length + CONFIG.length + 65_537 * one.length)
    bytes.set([...HEADER, ...CONFIG])
    const view = new DataView(bytes.buffer)
    for (let i = 0, at = HEADER.length + CONFIG.length; i < 65_537; i++, at += one.length) {
      bytes.set(one, at)
      view.setUint32(at + 1, i) // the id of the section, and of its footer
      view.setUint32(at + one.length - 4, i)
    }
    await expect(load(bytes)).rejects.toThrow(/more than 65536 sections/)
  })

  it('is cut at any byte: a typed error with an offset, and nothing but the end itself is complete', async () => {
    const m = machine()
    m.d.more = 1
    setGlobalRunState(m.g, 'running')
    const bytes = await save(m)
    const eof =
      bytes.length -
      5 -
      new DataView(bytes.buffer).getUint32(
        bytes.findIndex((_, i) => bytes[i] === 0 && bytes[i + 1] === 6 && bytes[i + 6] === 0x7b) + 2,
      )
    for (let cut = 0; cut < bytes.length; cut++) {
      const code = await codeOf(bytes.subarray(0, cut))
      if (cut === eof) expect(code).toBe('loaded')
      else expect(code, `cut at ${cut}`).toMatch(/^FERRY_(STREAM|VMSTATE)_/)
    }
  })

  it('has any bit flipped: a typed error, or values that the container cannot know', async () => {
    const bytes = await save()
    let errors = 0
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const broken = bytes.slice()
      broken[bit >> 3]! ^= 1 << (bit & 7)
      const code = await codeOf(broken)
      expect(code).toMatch(/^(FERRY_|loaded)/)
      if (code !== 'loaded') errors++
    }
    expect(errors).toBeGreaterThan(1000)
  })

  it('a stuck coroutine that asks for bytes that never come does not hang the loader', async () => {
    const sections = createSaveStateRegistry()
    const table = defineVmstate({ name: 'x', version: 1, fields: { bytes: u8Array(8) } })
    sections.register(table, table.createState())
    sections.registerLive('live', 1, {
      saveSetup() {},
      saveLivePending: () => ({ mustPrecopy: 0, canPostcopy: 0 }),
      saveLiveIterate: () => true,
      saveLiveCompletePrecopy() {},
      *loadState() {
        for (;;) yield 1
      },
    })
    const bytes = [...HEADER, ...CONFIG, 1, ...be32(1), ...str8('live'), ...be32(0), ...be32(1)]
    const loader = new StreamLoader(bufferReader(Uint8Array.from(bytes)), sections, { configuration })
    await expect(loader.load()).rejects.toMatchObject({ code: 'FERRY_STREAM_SECTION_LOAD', idstr: 'live' })
  })
})
