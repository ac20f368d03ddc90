/** The virtio IOMMU, driven by hand, with a disk behind it. What it saves is compared with stock's in virtio-streams.test.ts. */
import { memoryBlock, virtioBlk, virtioIommu } from '@ferryvm/devices-virtio'
import { describe, expect, it } from 'vitest'
import { RAM, VirtioBench } from './harness/virtio-bench.ts'
import { blkRequest, config, startModern } from './harness/virtio-driver.ts'

const IDSTR = '0000:00:01.0/virtio-iommu'
const DISK = 2 << 3
const VERSION_1 = 1n << 32n
const ACCESS_PLATFORM = 1n << 33n
const BYPASS_CONFIG = 1n << 6n
const REQUEST = RAM + 0x20_0000
const ANSWER = RAM + 0x20_1000
const EVENT = RAM + 0x20_2000
const IOVA = 2 ** 32
const [ATTACH, DETACH, MAP, UNMAP, PROBE] = [1, 2, 3, 4, 5]
const [OK, UNSUPP, INVAL, RANGE, NOENT] = [0, 2, 4, 5, 6]
const READ_WRITE = 3

async function create(props = {}) {
  const disk = new Uint8Array(64 * 512)
  const options = { 'disable-legacy': 'on', iommu_platform: 'on' }
  const bench = await VirtioBench.create([
    virtioIommu(props, { bus: 'pcie.0' }),
    virtioBlk({ drive: memoryBlock(disk) }, { bus: 'pcie.0', options }),
  ])
  bench.machine.start()
  return { bench, disk }
}

/** Its queues stay below those of the disk, which the driver of tests puts at the same place. */
function startIommu(bench: VirtioBench) {
  const { queues, notify, bar } = startModern(bench, 1, {
    features: VERSION_1 | BYPASS_CONFIG,
    queues: 2,
    queueSize: 8,
  })
  return {
    bar,
    events: queues[1]!,
    /** Fields are [bytes, value]. @returns status, and how much was written */
    ask(type: number, ...fields: [4 | 8, number | bigint][]): number {
      const request = new Uint8Array(72)
      const view = new DataView(request.buffer)
      request[0] = type
      let at = 4
      for (const [bytes, value] of fields) {
        if (bytes === 4) view.setUint32(at, Number(value), true)
        else view.setBigUint64(at, BigInt(value), true)
        at += bytes
      }
      const size = [0, 20, 20, 36, 28, 72][type] ?? 20
      const room = type === PROBE ? 516 : 4
      bench.poke(REQUEST, request)
      bench.poke(ANSWER, new Uint8Array(520).fill(0xee))
      queues[0]!.add({ at: REQUEST, length: size }, { at: ANSWER, length: room, deviceWrites: true })
      const before = queues[0]!.usedIdx
      notify(0)
      expect(queues[0]!.usedElement(before).length).toBe(room)
      return bench.peek(ANSWER + room - 4, 1)[0]!
    },
  }
}
type IommuDriver = ReturnType<typeof startIommu>
const attach = (driver: IommuDriver, domain: number, flags = 0, endpoint = DISK) =>
  driver.ask(ATTACH, [4, domain], [4, endpoint], [4, flags])
const map = (driver: IommuDriver, domain: number, low: number, high: number, phys: number, flags = READ_WRITE) =>
  driver.ask(MAP, [4, domain], [8, low], [8, high], [8, phys], [4, flags])
const unmap = (driver: IommuDriver, domain: number, low: number, high: number) =>
  driver.ask(UNMAP, [4, domain], [8, low], [8, high])

describe('a virtio IOMMU', () => {
  it('looks like the reference board', async () => {
    const { bench } = await create()
    await using _ = bench
    expect([0, 4, 8, 0x2c].map((at) => bench.read(config(1, at)))).toEqual([
      0x1057_1af4, 0x10_0000, 0x00ff_0001, 0x1100_1af4,
    ])
    expect(bench.read(config(1, 0x34), 1), 'no MSI-X').toBe(0x84)
    const { bar } = startIommu(bench)
    bench.write(bar, 0)
    expect(bench.read(bar + 4)).toBe(0x3000_0077)
    const bytes = Array.from({ length: 40 }, (_, i) => bench.read(bar + 0x2000 + i, 1))
    expect(Buffer.from(bytes).toString('hex')).toBe(
      '00f0ffffffffffff' + '0000000000000000' + 'ffffffffffffffff' + '00000000ffffffff' + '00020000' + '01000000',
    )
  })

  it('answers as its rules say', async () => {
    const { bench } = await create()
    await using _ = bench
    const driver = startIommu(bench)
    expect(attach(driver, 1, 0, 5 << 3), 'no such function').toBe(NOENT)
    expect(attach(driver, 1, 0, 1 << 3), 'itself').toBe(NOENT)
    expect(attach(driver, 1, 2)).toBe(INVAL)
    expect(map(driver, 1, 0, 0xfff, RAM)).toBe(NOENT)
    expect(driver.ask(DETACH, [4, 1], [4, DISK])).toBe(NOENT)
    expect(attach(driver, 1)).toBe(OK)
    expect(driver.ask(DETACH, [4, 2], [4, DISK])).toBe(INVAL)
    expect(map(driver, 1, 0x1000, 0x1fff, RAM, 8)).toBe(INVAL)
    expect(map(driver, 1, 0x1000, 0x1fff, RAM)).toBe(OK)
    expect(map(driver, 1, 0x3000, 0x3fff, RAM)).toBe(OK)
    expect(map(driver, 1, 0x1800, 0x2fff, RAM), 'overlap').toBe(INVAL)
    expect(map(driver, 1, 0, 0x4000, RAM), 'overlap around').toBe(INVAL)
    expect(unmap(driver, 1, 0, 0x37ff), 'the second sticks out').toBe(RANGE)
    expect(map(driver, 1, 0x1000, 0x1fff, RAM), 'the first was taken out').toBe(OK)
    expect(unmap(driver, 1, 0, 0xffff)).toBe(OK)
    expect(unmap(driver, 1, 0, 0xffff), 'nothing there').toBe(OK)
    expect(attach(driver, 2, 1), 'into a bypass domain').toBe(OK)
    expect(map(driver, 2, 0, 0xfff, RAM)).toBe(INVAL)
    expect(map(driver, 1, 0, 0xfff, RAM), 'the domain died with its last endpoint').toBe(NOENT)
    expect(attach(driver, 2, 0)).toBe(OK)
    expect(driver.ask(DETACH, [4, 2], [4, DISK])).toBe(OK)
    expect(driver.ask(PROBE, [4, DISK])).toBe(OK)
    expect(driver.ask(PROBE, [4, 77])).toBe(NOENT)
    expect(driver.ask(9)).toBe(UNSUPP)
    expect(bench.guestErrors).toEqual([])
  })

  it('translates what the disk behind it does, and reports what it may not', async () => {
    const { bench, disk } = await create()
    await using _ = bench
    disk.fill(0x5a, 512, 1024)
    const driver = startIommu(bench)
    expect(attach(driver, 7)).toBe(OK)
    expect(map(driver, 7, IOVA + RAM, IOVA + RAM + 0x40_ffff, RAM)).toBe(OK)
    expect(map(driver, 7, IOVA + RAM + 0x41_0000, IOVA + RAM + 0x41_ffff, RAM + 0x50_0000)).toBe(OK)
    for (let i = 0; i < 4; i++) driver.events.add({ at: EVENT + 64 * i, length: 24, deviceWrites: true })
    const blk = startModern(bench, 2, {
      features: VERSION_1 | ACCESS_PLATFORM,
      iovaOffset: IOVA,
      queueMemory: RAM + 0x30_0000,
    })
    // Across the border of two mappings: one request's data in two places.
    const at = RAM + 0x40_ff00
    const read = blkRequest(bench, blk.queues[0]!, { type: 0, sector: 1, read: 512, at })
    bench.poke(RAM + 0x50_0000, new Uint8Array(512))
    blk.notify(0)
    await blk.queues[0]!.used(1)
    const first = bench.peek(read.dataAt, RAM + 0x41_0000 - read.dataAt)
    const rest = bench.peek(RAM + 0x50_0000, 512 - first.length + 1)
    expect([...new Set(first), ...new Set(rest.subarray(0, -1)), rest.at(-1)]).toEqual([0x5a, 0x5a, 0])

    expect(unmap(driver, 7, IOVA + RAM + 0x41_0000, IOVA + RAM + 0x41_ffff)).toBe(OK)
    expect(map(driver, 7, IOVA + RAM + 0x41_0000, IOVA + RAM + 0x41_ffff, RAM + 0x50_0000, 1)).toBe(OK)
    blkRequest(bench, blk.queues[0]!, { type: 0, sector: 1, read: 512, at })
    blk.notify(0)
    for (let i = 0; driver.events.usedIdx === 0; i++) {
      expect(i).toBeLessThan(2000)
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    const view = new DataView(bench.peek(EVENT, 24).buffer)
    expect([view.getUint8(0), view.getUint32(4, true), view.getUint32(8, true), view.getBigUint64(16, true)]).toEqual([
      2,
      0x102,
      DISK,
      BigInt(IOVA + RAM + 0x41_0000),
    ])
  })

  it('keeps who is in no domain out, if that is how it was left', async () => {
    const { bench } = await create({ 'boot-bypass': 'off' })
    await using _ = bench
    const driver = startIommu(bench)
    driver.events.add({ at: EVENT, length: 24, deviceWrites: true })
    const features = VERSION_1 | ACCESS_PLATFORM
    const blk = startModern(bench, 2, { features, queueMemory: RAM + 0x30_0000 })
    blkRequest(bench, blk.queues[0]!, { type: 4 })
    blk.notify(0)
    expect(driver.events.usedIdx).toBe(1)
    expect(bench.peek(EVENT, 8)).toEqual(Uint8Array.of(0, 0, 0, 0, 0, 1, 0, 0))
    bench.write(driver.bar + 0x2024, 1, 1)
    const again = startModern(bench, 2, { features, queueMemory: RAM + 0x30_0000 })
    blkRequest(bench, again.queues[0]!, { type: 4 })
    again.notify(0)
    await again.queues[0]!.used(1)
    bench.write(driver.bar + 20, 0, 1)
    expect(bench.read(driver.bar + 0x2024, 1), 'a reset of the device leaves it').toBe(1)
    await bench.machine.reset()
    expect(bench.read(config(1, 0), 2)).toBe(0x1af4)
    const { bar } = startIommu(bench)
    expect(bench.read(bar + 0x2024, 1), 'a reset of the machine does not').toBe(0)
    bench.write(bar + 0x2024, 2, 1)
    expect(bench.read(bar + 20, 1) & 0x40, 'needs a reset').toBe(0x40)
  })

  it('sits on PCI, once', async () => {
    await expect(VirtioBench.create([virtioIommu({}, { bus: 'virtio-mmio' })])).rejects.toThrow('sits on PCI')
    const two = [virtioIommu({}, { bus: 'pcie.0' }), virtioIommu({}, { bus: 'pcie.0' })]
    await expect(VirtioBench.create(two)).rejects.toThrow('already is in front of pcie.0')
  })
})

describe('what a virtio IOMMU saves', () => {
  it('comes first, and goes on translating', async () => {
    const { bench: from } = await create()
    const { bench: to } = await create()
    await using _from = from
    await using _to = to
    expect(from.machine.sections.entries()[0]!.idstr).toBe(IDSTR)
    const driver = startIommu(from)
    attach(driver, 7)
    map(driver, 7, IOVA + RAM, IOVA + RAM + 0xff_ffff, RAM)
    map(driver, 7, 0x1000, 0x1fff, RAM, 1)
    await from.machine.stop()
    await to.machine.stop()
    to.ram.set(from.ram)
    const body = from.save(IDSTR)
    to.load(IDSTR, body, 2)
    expect(Buffer.compare(to.save(IDSTR), body)).toBe(0)
    to.machine.start()
    const features = VERSION_1 | ACCESS_PLATFORM
    const blk = startModern(to, 2, { features, iovaOffset: IOVA, queueMemory: RAM + 0x30_0000 })
    blkRequest(to, blk.queues[0]!, { type: 4 })
    blk.notify(0)
    await blk.queues[0]!.used(1)
  })

  it('is refused when it speaks of functions that are not there, or of mappings that cannot be', async () => {
    const { bench: from } = await create()
    const { bench: to } = await create()
    await using _from = from
    await using _to = to
    const driver = startIommu(from)
    attach(driver, 7)
    map(driver, 7, 0x1000, 0x1fff, RAM)
    await from.machine.stop()
    await to.machine.stop()
    to.ram.set(from.ram)
    const saved = from.save(IDSTR)
    // u32 1 domain; 1, u64 key, u32 id, u32 1 mapping; 1, low, high, phys, flags; 0; 1, endpoint; 0; bypass; 0; bypass
    const own = Buffer.from(saved).indexOf(
      Buffer.from('0000000101' + '0000000000000007' + '00000007' + '00000001', 'hex'),
    )
    const length = 4 + 1 + 8 + 4 + 4 + 1 + 28 + 1 + 5 + 1 + 1 + 1 + 1
    const loads = (bytes: Uint8Array) => {
      try {
        to.load(IDSTR, bytes, 2)
        return ''
      } catch (error) {
        expect((error as { code?: string }).code ?? (error as Error).message).toMatch(/^FERRY_|bytes left/)
        return (error as Error).message
      }
    }
    const changed = (at: number, value: number) => Uint8Array.from(saved, (byte, i) => (i === own + at ? value : byte))
    expect(loads(changed(22 + 28 + 2 + 3, 0x28))).toContain('PCI function 0x28, which this machine has not')
    expect(loads(changed(22 + 8 + 6, 0))).toContain('overlap, or are not in order')
    expect(loads(changed(length - 1, 2))).toContain('neither 0 nor 1')
    for (let at = 0; at < length; at++) loads(changed(at, saved[own + at]! ^ 0x81))
    expect(loads(saved)).toBe('')
  })
})
