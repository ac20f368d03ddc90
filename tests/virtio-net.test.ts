/** The virtio network card, driven by hand. What it saves is compared with stock's in virtio-streams.test.ts. */
import type { NetBackend } from '@ferryvm/core'
import { virtioNet } from '@ferryvm/devices-virtio'
import { describe, expect, it } from 'vitest'
import { RAM, VirtioBench } from './harness/virtio-bench.ts'
import { config, type GuestQueue, startModern } from './harness/virtio-driver.ts'

const IDSTR = '0000:00:01.0/virtio-net'
const VERSION_1 = 1n << 32n
const bit = (...bits: number[]) => bits.reduce((sum, n) => sum | (1n << BigInt(n)), 0n)
const CTRL = bit(17, 18, 19, 20, 23)
const MRG_RXBUF = bit(15)
const GUEST_ANNOUNCE = bit(21)
const DATA = RAM + 0x60_0000
const HEADER = 12
const OWN = [0x52, 0x54, 0, 0x12, 0x34, 0x56]

class Network implements NetBackend {
  readonly sent: Uint8Array[] = []
  slow = false
  settle = () => {}
  readable: boolean | undefined
  #deliver: (frame: Uint8Array) => void = () => {}
  send(frame: Uint8Array) {
    this.sent.push(frame)
    return this.slow ? new Promise<void>((resolve) => (this.settle = resolve)) : undefined
  }
  onReceive(listener: (frame: Uint8Array) => void) {
    this.#deliver = listener
    return { [Symbol.dispose]() {} }
  }
  setReadable(readable: boolean) {
    this.readable = readable
  }
  deliver(frame: Uint8Array) {
    this.#deliver(frame)
  }
}

const frame = (to: number[], length = 64, fill = 0x5a) => {
  const bytes = new Uint8Array(length).fill(fill)
  bytes.set(to)
  bytes.set([8, 0], 12)
  return bytes
}
const create = (network: NetBackend, props = {}) =>
  VirtioBench.create([virtioNet({ netdev: network, ...props }, { bus: 'pcie.0' })])
const start = (bench: VirtioBench, features = 0n) =>
  startModern(bench, 1, { features: VERSION_1 | features, queues: 3, queueSize: 16 })

async function command(bench: VirtioBench, driver: ReturnType<typeof start>, bytes: number[]): Promise<number> {
  const queue = driver.queues[2]!
  bench.poke(DATA, Uint8Array.from(bytes))
  bench.poke(DATA + 0x1000, Uint8Array.of(0xee))
  const before = queue.usedIdx
  queue.add({ at: DATA, length: bytes.length }, { at: DATA + 0x1000, length: 1, deviceWrites: true })
  driver.notify(2)
  await queue.used(before + 1)
  return bench.peek(DATA + 0x1000, 1)[0]!
}
const receive = (queue: GuestQueue, length = 2048, at = DATA + 0x2000) => queue.add({ at, length, deviceWrites: true })

describe('a virtio network card', () => {
  it('looks like the reference board, with its option ROM', async () => {
    await using bench = await create(new Network())
    expect(bench.read(config(1, 0))).toBe(0x1000_1af4)
    expect(bench.read(config(1, 8))).toBe(0x0200_0000)
    expect(bench.read(config(1, 0x9a), 2), 'MSI-X vectors, less one').toBe(3)
    bench.write(config(1, 0x30), 0xffff_ffff)
    expect(bench.read(config(1, 0x30)), 'ROM of 256 KiB').toBe(0xfffc_0001)
    expect(bench.machine.memory.blocks.map((b) => [b.idstr, b.sizeBytes])).toContainEqual([
      '0000:00:01.0/virtio-net-pci.rom',
      262_144,
    ])
    bench.machine.memory.blocks.at(-1)!.bytes.set([0x55, 0xaa])
    bench.write(config(1, 0x30), 0x4200_0001)
    bench.write(config(1, 4), 2, 2)
    expect(bench.read(0x4200_0000)).toBe(0xaa55)
    bench.write(0x4200_0000, 0)
    expect(bench.read(0x4200_0000), 'it is read-only').toBe(0xaa55)
    bench.write(config(1, 0x30), 0x4200_0000)
    expect(bench.read(0x4200_0000), 'and not there while it is off').toBe(0xffff_ffff)
    const { bar } = start(bench)
    bench.write(bar, 0)
    // As read from stock QEMU 7.2 with a user network; see virt-machine.md section 6.9.
    expect(bench.read(bar + 4)).toBe(Number(bit(2, 5, 15, 16, 17, 18, 19, 20, 21, 23, 28, 29)))
    expect([bench.read(bar + 0x2000), bench.read(bar + 0x2004)]).toEqual([0x1200_5452, 0x0001_5634])
  })

  it('has no ROM with romfile=, and refuses what it cannot have', async () => {
    await using bench = await create(new Network(), { romfile: '' })
    bench.write(config(1, 0x30), 0xffff_ffff)
    expect(bench.read(config(1, 0x30))).toBe(0)
    await expect(create(new Network(), { mac: '01:00:00:00:00:00' })).rejects.toThrow('multicast')
    await expect(create(new Network(), { mac: 'aa:bb' })).rejects.toThrow('is not an address like')
    await expect(create(new Network(), { speed: 10 })).rejects.toThrow('speed')
  })

  it('sends what the guest gives it, and waits for a slow network', async () => {
    const network = new Network()
    await using bench = await create(network)
    bench.machine.start()
    const { queues, notify } = start(bench)
    const send = (at: number, payload: Uint8Array) => {
      bench.poke(at + HEADER, payload)
      queues[1]!.add({ at, length: HEADER }, { at: at + HEADER, length: payload.length })
    }
    network.slow = true
    send(DATA, frame([1, 2, 3, 4, 5, 6]))
    send(DATA + 0x1000, frame([2, 2, 3, 4, 5, 6], 1514))
    notify(1)
    expect(network.sent).toEqual([frame([1, 2, 3, 4, 5, 6])])
    network.slow = false
    network.settle()
    await queues[1]!.used(2)
    expect(network.sent[1]).toEqual(frame([2, 2, 3, 4, 5, 6], 1514))
    queues[1]!.add({ at: DATA, length: 8 })
    notify(1)
    expect(bench.guestErrors.at(-1)).toContain('has no room for its header')
  })

  it('gives frames to the guest, in as many buffers as they need where those may be merged', async () => {
    const network = new Network()
    await using bench = await create(network)
    bench.machine.start()
    const { queues, notify } = start(bench, MRG_RXBUF)
    const long = frame(OWN, 1000)
    network.deliver(long)
    expect(queues[0]!.usedIdx, 'no buffers yet').toBe(0)
    for (let i = 0; i < 3; i++) receive(queues[0]!, 400, DATA + 0x1000 * i)
    network.deliver(frame(OWN))
    notify(0)
    expect(queues[0]!.usedIdx).toBe(3)
    const parts = [0, 1, 2].map((i) => bench.peek(DATA + 0x1000 * i, queues[0]!.usedElement(i).length))
    expect(Buffer.concat(parts).subarray(HEADER)).toEqual(Buffer.from(long))
    expect(parts[0]![10], 'num_buffers').toBe(3)
    receive(queues[0]!)
    notify(0)
    expect(queues[0]!.usedElement(3)).toEqual({ id: 3, length: HEADER + 64 })
  })

  it('drops what does not fit a buffer that stands alone, and what nobody takes', async () => {
    const network = new Network()
    await using bench = await create(network)
    network.deliver(frame(OWN)) // no driver
    bench.machine.start()
    const { queues } = start(bench)
    receive(queues[0]!, 100)
    network.deliver(frame(OWN, 500))
    network.deliver(frame(OWN, 80, 7))
    expect(queues[0]!.usedIdx).toBe(1)
    expect(bench.peek(DATA + 0x2000 + HEADER + 20, 1)[0]).toBe(7)
    for (let i = 0; i < 400; i++) network.deliver(frame(OWN))
    expect(network.readable, 'there is a bound').toBe(false)
    expect(bench.guestErrors).toEqual([])
  })

  it('filters as its driver says', async () => {
    const network = new Network()
    await using bench = await create(network)
    bench.machine.start()
    const driver = start(bench, CTRL)
    const queue = driver.queues[0]!
    const other = [2, 0, 0, 0, 0, 9]
    const group = [1, 0, 0x5e, 0, 0, 1]
    const takes = (to: number[], vlan?: number) => {
      const before = queue.usedIdx
      receive(queue)
      const bytes = frame(to)
      if (vlan !== undefined) bytes.set([0x81, 0, vlan >> 8, vlan & 0xff], 12)
      network.deliver(bytes)
      if (queue.usedIdx !== before) return true
      network.deliver(frame(OWN)) // uses the buffer up
      return false
    }
    expect(takes(other), 'promiscuous from power-on').toBe(true)
    expect(await command(bench, driver, [0, 0, 0])).toBe(0)
    expect([takes(OWN), takes(other), takes(group), takes([...Array(6).fill(255)])]).toEqual([true, false, false, true])
    const table = [1, 0, 1, 0, 0, 0, ...other, 1, 0, 0, 0, ...group]
    expect(await command(bench, driver, table)).toBe(0)
    expect([takes(other), takes(group), takes([1, 1, 1, 1, 1, 1])]).toEqual([true, true, false])
    expect(await command(bench, driver, [0, 5, 1]), 'no broadcasts').toBe(0)
    expect(takes(Array(6).fill(255))).toBe(false)
    expect([takes(OWN, 5), await command(bench, driver, [2, 0, 5, 0]), takes(OWN, 5)]).toEqual([false, 0, true])
    expect([await command(bench, driver, [2, 1, 5, 0]), takes(OWN, 5)]).toEqual([0, false])
    expect(await command(bench, driver, [1, 1, ...other])).toBe(0)
    expect(takes(OWN)).toBe(false)
    const many = [1, 0, 65, 0, 0, 0, ...Array(65).fill(other).flat(), 0, 0, 0, 0]
    expect(await command(bench, driver, many)).toBe(0)
    expect(takes([2, 3, 3, 3, 3, 3]), 'too many to tell apart').toBe(true)
    const wrong = [
      [9, 9],
      [0],
      [0, 0],
      [1, 0, 255, 255, 255, 255],
      [1, 1, 1],
      [2, 0, 0, 0x10],
      [5, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    for (const bytes of wrong) expect(await command(bench, driver, bytes), String(bytes)).toBe(1)
  })
})

describe('what a card saves', () => {
  it('filters on where it arrives, and says where it is', async () => {
    const [there, here] = [new Network(), new Network()]
    await using from = await create(there)
    from.machine.start()
    const driver = start(from, CTRL | GUEST_ANNOUNCE)
    await command(from, driver, [0, 0, 0])
    await command(from, driver, [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 7])
    await command(from, driver, [2, 0, 5, 0])
    await command(from, driver, [1, 1, 2, 0, 0, 0, 0, 9])
    from.machine.devices.at(-1)!.device.announce!()
    expect(from.read(driver.bar + 0x2006, 2)).toBe(3)
    await command(from, driver, [3, 0])
    expect(from.read(driver.bar + 0x2006, 2), 'the driver has announced itself').toBe(1)
    await from.machine.stop()
    await using to = await create(here)
    to.ram.set(from.ram)
    const body = from.save(IDSTR)
    to.load(IDSTR, body, 11)
    expect(Buffer.compare(to.save(IDSTR), body)).toBe(0)
    expect(here.sent).toEqual([])
    to.machine.start()
    to.machine.devices.at(-1)!.device.announce!()
    expect(here.sent).toHaveLength(1)
    expect(Buffer.from(here.sent[0]!.subarray(0, 22)).toString('hex')).toBe(
      'ffffffffffff02000000000980350001080006040003',
    )
    const queue = driver.queues[0]!
    const usedHere = () => to.peek16(queue.q.used + 2)
    const before = usedHere()
    here.deliver(frame(OWN))
    here.deliver(frame([1, 0, 0x5e, 0, 0, 8]))
    expect(usedHere()).toBe(before)
    const bar = driver.bar
    expect(to.read(bar + 0x2006, 2), 'link up, and the driver should announce itself').toBe(3)
    expect(to.read(bar + 0x1000, 1) & 2, 'configuration interrupt').toBe(2)
  })

  it('is refused, or harmless, when it is damaged, and when the sender had offloads', async () => {
    await using from = await create(new Network())
    await using to = await create(new Network())
    const saved = from.save(IDSTR)
    const own = Buffer.from(saved).indexOf(Uint8Array.from(OWN))
    const loads = (bytes: Uint8Array) => {
      try {
        to.load(IDSTR, bytes, 11)
        return undefined
      } catch (error) {
        expect((error as { code?: string }).code ?? (error as Error).message).toMatch(/^FERRY_|bytes left/)
        return (error as Error).message
      }
    }
    for (let at = own; at < own + 545; at++) {
      const bytes = saved.slice()
      bytes[at]! ^= 0x81
      loads(bytes)
    }
    to.machine.start()
    const offloads = saved.slice()
    offloads[own + 6 + 4 + 4 + 2 + 2 + 4 + 512 + 3] = 1
    expect(loads(offloads)).toContain('takes frames with offloads')
  })
})
