import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import type { CharBackend, DeviceSpec, Placement } from '@ferryvm/core'
import {
  memoryBlock,
  virtconsole,
  virtioBlk,
  virtioIommu,
  virtioNet,
  virtioRng,
  virtioSerial,
  virtserialport,
} from '@ferryvm/devices-virtio'
import { describe, expect, it } from 'vitest'
import { VirtioBench } from './harness/virtio-bench.ts'

interface RecordedSection {
  readonly stream: string
  readonly idstr: string
  readonly version: number
  readonly vmdesc: Record<string, unknown>
  readonly body: string
}
/** Sections of PCI and virtio devices as stock QEMU 7.2 and 10.0 sent them. Spec: virt-vmstate.md sections 8 and 9. */
const recorded: RecordedSection[] = JSON.parse(
  gunzipSync(readFileSync(new URL('./__fixtures__/virtio-sections.json.gz', import.meta.url))).toString(),
)
const streams = [...new Set(recorded.map((s) => s.stream))]
/** The recorded guest maps addresses below 4 GiB to themselves for its entropy device, 4 GiB higher for its disk. */
const IOVA_OFFSET = 2 ** 32
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** As a null backend of stock. */
const nobody: CharBackend = {
  write() {},
  onInput: () => ({ [Symbol.dispose]() {} }),
  onConnection(listener) {
    listener(false)
    return { [Symbol.dispose]() {} }
  },
}
const RECORDED: Readonly<Record<string, (placement: Placement) => DeviceSpec[]>> = {
  'virtio-blk': (placement) => [virtioBlk({ drive: memoryBlock(new Uint8Array(4 << 20)) }, placement)],
  'virtio-iommu': (placement) => [virtioIommu({}, placement)],
  'virtio-net': (placement) => [virtioNet({ romfile: '' }, placement)],
  'virtio-rng': (placement) => [virtioRng({}, placement)],
  'virtio-console': (placement) => [
    virtioSerial({}, placement),
    virtconsole({ chardev: nobody }),
    virtserialport({ chardev: nobody, name: 'org.test.0' }),
  ],
}

/** The same devices in the same places as on the machine that was recorded. */
function devicesOf(stream: string): { devices: DeviceSpec[]; harts: number; forceLegacy: boolean } {
  const modernBehindIommu = stream.includes('viommu')
  const devices = recorded
    .filter((s) => s.stream === stream && s.idstr.includes('/virtio-'))
    .flatMap(({ idstr }) => {
      const [path, type] = idstr.split('/')
      const pci = /^0000:00:(..)\.0$/.exec(path!)
      const options = modernBehindIommu && type === 'virtio-blk' ? { 'disable-legacy': 'on', iommu_platform: 'on' } : {}
      const placement = pci
        ? { bus: 'pcie.0', addr: pci[1]!, options }
        : { bus: 'virtio-mmio', addr: String((Number.parseInt(path!.split('@')[1]!, 16) - 0x1000_1000) / 0x1000) }
      return RECORDED[type!]!(placement)
    })
  return { devices, harts: stream.includes('smp2') ? 2 : 1, forceLegacy: !stream.includes('modern') }
}

/** Puts rings into memory whose indices say that the device is idle, where the section says that they are. */
function placeRings(bench: VirtioBench, idstr: string): void {
  const { state } = bench.section(idstr)
  for (const queue of state.virtio?.queues ?? []) {
    for (const ring of [queue.avail, queue.used]) {
      if (ring !== 0n) bench.poke16((Number(ring) % IOVA_OFFSET) + 2, queue.lastAvailIdx)
    }
  }
}

function arrive(
  bench: VirtioBench,
  { idstr, body, version }: Pick<RecordedSection, 'idstr' | 'body' | 'version'>,
): void {
  const bytes = Uint8Array.from(Buffer.from(body, 'hex'))
  try {
    bench.load(idstr, bytes, version)
  } catch {
    // The rings are not there yet; but now it is known where they are.
  }
  placeRings(bench, idstr)
  bench.guestErrors.length = 0
  bench.load(idstr, bytes, version)
}

describe.each(streams)('sections of %s', (stream) => {
  const sections = recorded.filter((s) => s.stream === stream)

  it.each(sections)('loads $idstr and saves the same bytes', async ({ idstr, version, body, vmdesc }) => {
    await using bench = await VirtioBench.create(devicesOf(stream).devices, devicesOf(stream))
    // It was saved first, for the sake of the devices behind it.
    const iommu = sections.find((s) => s.idstr.endsWith('/virtio-iommu'))
    if (iommu && iommu.idstr !== idstr) arrive(bench, iommu)
    arrive(bench, { idstr, version, body })
    expect(bench.guestErrors).toEqual([])
    expect(hex(bench.save(idstr))).toBe(body)

    const { codec, state } = bench.section(idstr)
    expect({ name: idstr, instance_id: 0, ...codec.describe(state) }).toMatchObject(vmdesc)
  })
})

describe('sections of machines that never ran', () => {
  it.each(recorded.filter((s) => s.stream.includes('reset')))(
    '$stream: $idstr is what we save after reset',
    async (s) => {
      await using bench = await VirtioBench.create(devicesOf(s.stream).devices, devicesOf(s.stream))
      expect(hex(bench.save(s.idstr))).toBe(s.body)
    },
  )
})
