import { describe, expect, it } from 'vitest'
import { upgradeStream } from '../convert/upgrade-stream.ts'
import { inspectStream } from '../inspect/inspect-stream.ts'
import { BytesSink } from '../source/byte-sink.ts'
import { bytesSource } from '../source/byte-source.ts'
import { loadStream, stockStreams } from '../stock-streams-testing.ts'
import type { VmstateDump } from '../vmstate/dump.ts'
import { explainByDump, explainStream, explainText } from './explain-stream.ts'
import { qemu72, qemu100, type Receiver } from './receivers.ts'

const read = (bytes: Uint8Array) => inspectStream(bytesSource(bytes))
const rejected = async (bytes: Uint8Array, receiver: Receiver) =>
  explainStream(await read(bytes), receiver).filter((f) => f.kind === 'rejected')

// Spec: virt-vmstate.md section 18, what was observed between stock releases.
describe('the reasons that stock QEMU was seen to give', () => {
  it('7.2 to 10.0: the version of the cpu section', async () => {
    const findings = await rejected(loadStream('rv72-bm-pci-smp2'), qemu100)
    expect(findings[0]).toMatchObject({
      where: 'cpu/0',
      message: 'cpu: incoming version_id 5 is too old for local minimum version_id  10',
      wayOut: 'emu upgrade --to 10.0',
    })
    expect(new Set(findings.map((f) => f.where))).toEqual(new Set(['cpu/0', 'cpu/1']))
  })
  it('10.0 to 7.2: RAM blocks, a command, the cpu section, an unknown section', async () => {
    const messages = (await rejected(loadStream('rv100-bm-viommu-smp2'), qemu72)).map((f) => f.message)
    expect(messages).toContain('Unknown ramblock "/rom@etc/acpi/tables", cannot accept migration')
    expect(messages).toContain('MIG_CMD 0xb unknown (len 0x0)')
    expect(messages).toContain("savevm: unsupported version 10 for 'cpu' v5")
    expect(messages.join()).toMatch(/Unknown savevm section or instance 'virt_acpi_build' 0\./)
    expect(messages.join()).toMatch(/Unknown savevm section or instance '0000:00:01.0\/virtio-iommu' 0\./)
  })
})

describe.each(stockStreams.filter((n) => n.startsWith('rv')))('%s', (name) => {
  const [own, other, to] = name.startsWith('rv72')
    ? [qemu72, qemu100, '10.0' as const]
    : [qemu100, qemu72, '7.2' as const]
  it('has nothing that the release it came from would reject', async () => {
    expect(await rejected(loadStream(name), own)).toEqual([])
  })
  it('is rejected by the other release, until it is converted', async () => {
    expect((await rejected(loadStream(name), other)).length).toBeGreaterThan(0)
    const sink = new BytesSink()
    await upgradeStream(bytesSource(loadStream(name)), sink, to, { force: true })
    // No rule can make a device that the other release does not have.
    const left = (await rejected(sink.bytes(), other)).filter((f) => !f.where.includes('virtio-iommu'))
    expect(left).toEqual([])
  })
})

describe('a receiver that a dump describes', () => {
  const dump = (change: Partial<VmstateDump['devices'][number]['table']>): VmstateDump => ({
    machine: 'virt',
    devices: [
      {
        type: 'goldfish_rtc',
        table: {
          name: 'goldfish_rtc',
          version: 3,
          minimumVersion: 0,
          fields: [
            ['tick_offset_vmstate', 8, 0],
            ['alarm_next', 8, 0],
            ['alarm_running', 4, 0],
            ['irq_pending', 4, 0],
            ['irq_enabled', 4, 0],
            ['time_high', 4, 0],
            ['tick_offset', 8, 3],
          ].map(([n, size, since]) => ({
            name: String(n),
            size: Number(size),
            sinceVersion: Number(since),
            conditional: false,
          })),
          subsections: [],
          ...change,
        },
      },
    ],
  })
  const said = async (change: Parameters<typeof dump>[0]) =>
    explainByDump(await read(loadStream('rv72-bm-pci-smp2')), dump(change), 'other.json')
      .filter((f) => f.kind === 'rejected')
      .map((f) => f.what)

  it('loads what fits it', async () => expect(await said({})).toEqual([]))
  it('rejects versions out of its range', async () => {
    expect(await said({ version: 2 })).toEqual(['goldfish_rtc has version 3; the receiver reads 0 to 2'])
    expect(await said({ version: 5, minimumVersion: 4 })).toEqual([
      'goldfish_rtc has version 3; the receiver reads 4 to 5',
    ])
  })
  it('rejects fields that it does not have, or has in another size', async () => {
    const { fields } = dump({}).devices[0]!.table
    expect(await said({ fields: fields.slice(1) })).toEqual([
      "the receiver's goldfish_rtc has no field tick_offset_vmstate",
    ])
    expect(await said({ fields: fields.map((f) => ({ ...f, size: 4 })) })).toHaveLength(3)
    expect(await said({ fields: [...fields].reverse() })).toEqual([
      "the receiver's goldfish_rtc has its fields in another order",
    ])
  })
  it('says which sections a dump tells nothing about', async () => {
    const findings = explainByDump(await read(loadStream('rv72-bm-pci-smp2')), dump({}), 'other.json')
    expect([...explainText(findings, 'other.json')].join('\n')).toMatch(
      /unknown: a dump does not list state of timer\/0, cpu_common\/0/,
    )
  })
})
