/** The virtio console device, driven by hand. What it saves is compared with stock's in virtio-streams.test.ts. */
import type { CharBackend, DeviceSpec } from '@ferryvm/core'
import { virtconsole, virtioSerial, virtserialport } from '@ferryvm/devices-virtio'
import { describe, expect, it } from 'vitest'
import { RAM, VirtioBench } from './harness/virtio-bench.ts'
import { config, type GuestQueue, startModern } from './harness/virtio-driver.ts'

const MULTIPORT = 1n << 1n
const VERSION_1 = 1n << 32n
const IDSTR = '0000:00:01.0/virtio-console'
const [DEVICE_READY, DEVICE_ADD, PORT_READY, CONSOLE_PORT, PORT_OPEN, PORT_NAME] = [0, 1, 3, 4, 6, 7]
const CONTROL_BUFFERS = RAM + 0x60_0000
const DATA = RAM + 0x70_0000

/** The host's end, of which the test decides when it takes bytes and whether somebody is there. */
class Line implements CharBackend {
  text = ''
  readable: boolean | undefined
  slow = false
  settle = () => {}
  #connected = true
  #input: (bytes: Uint8Array) => void = () => {}
  #connection: ((connected: boolean) => void) | undefined
  constructor(connected = true) {
    this.#connected = connected
  }
  write(bytes: Uint8Array) {
    this.text += new TextDecoder().decode(bytes)
    return this.slow ? new Promise<void>((resolve) => (this.settle = resolve)) : undefined
  }
  onInput(listener: (bytes: Uint8Array) => void) {
    this.#input = listener
    return { [Symbol.dispose]() {} }
  }
  onConnection(listener: (connected: boolean) => void) {
    this.#connection = listener
    listener(this.#connected)
    return { [Symbol.dispose]() {} }
  }
  setReadable(readable: boolean) {
    this.readable = readable
  }
  type(text: string) {
    this.#input(new TextEncoder().encode(text))
  }
  connect(connected: boolean) {
    this.#connected = connected
    this.#connection?.(connected)
  }
}

const devices = (console_: Line, port: Line, bus = 'pcie.0'): DeviceSpec[] => [
  virtioSerial({}, { bus }),
  virtconsole({ chardev: console_ }),
  virtserialport({ chardev: port, name: 'org.test.0' }),
]

/** A driver that knows several ports, as far as it takes to open them. */
function startDriver(bench: VirtioBench) {
  const { queues, notify } = startModern(bench, 1, { features: VERSION_1 | MULTIPORT, queues: 6 })
  const control = queues[2]!
  for (let i = 0; i < 8; i++) control.add({ at: CONTROL_BUFFERS + 64 * i, length: 64, deviceWrites: true })
  let seen = 0
  return {
    queues,
    notify,
    say(port: number, event: number, value: number) {
      const bytes = new Uint8Array(8)
      const view = new DataView(bytes.buffer)
      view.setUint32(0, port, true)
      view.setUint16(4, event, true)
      view.setUint16(6, value, true)
      bench.poke(CONTROL_BUFFERS + 0x1000, bytes)
      queues[3]!.add({ at: CONTROL_BUFFERS + 0x1000, length: 8 })
      notify(3)
    },
    /** What came since the last time: [port, event, value, text]. */
    heard() {
      const messages: [number, number, number, string][] = []
      for (; seen !== control.usedIdx; seen++) {
        const { id, length } = control.usedElement(seen)
        const bytes = bench.peek(CONTROL_BUFFERS + 64 * id, length)
        const view = new DataView(bytes.buffer)
        const text = new TextDecoder().decode(bytes.subarray(8))
        messages.push([view.getUint32(0, true), view.getUint16(4, true), view.getUint16(6, true), text])
      }
      return messages
    },
  }
}

const send = (bench: VirtioBench, queue: GuestQueue, text: string, at = DATA) => {
  bench.poke(at, new TextEncoder().encode(text))
  queue.add({ at, length: text.length })
}

describe('a virtio console device', () => {
  it('looks like the reference board', async () => {
    await using bench = await VirtioBench.create(devices(new Line(), new Line()))
    expect(bench.read(config(1, 0))).toBe(0x1003_1af4)
    expect(bench.read(config(1, 8))).toBe(0x0780_0000)
    expect(bench.read(config(1, 0x9a), 2), 'MSI-X vectors, less one').toBe(1)
    const { bar } = startModern(bench, 1, { queues: 0 })
    expect(bench.read(bar + 18, 2), 'queues').toBe(64)
    const sizes = [0, 1, 2, 3, 4, 63, 64].map((queue) => {
      bench.write(bar + 22, queue, 2)
      return bench.read(bar + 24, 2)
    })
    expect(sizes).toEqual([128, 128, 32, 32, 128, 128, 0])
    expect([0, 4, 8].map((at) => bench.read(bar + 0x2000 + at))).toEqual([0, 31, 0])
    bench.write(bar, 0)
    expect(bench.read(bar + 4), 'indirect, event index, multiport, emergency write').toBe(0x3000_0006)
  })

  it('introduces its ports, and tells of what happens at the other end', async () => {
    const port = new Line(false)
    await using bench = await VirtioBench.create(devices(new Line(), port))
    bench.machine.start()
    const driver = startDriver(bench)
    driver.say(0, DEVICE_READY, 1)
    expect(driver.heard()).toEqual([
      [0, DEVICE_ADD, 1, ''],
      [1, DEVICE_ADD, 1, ''],
    ])
    driver.say(0, PORT_READY, 1)
    expect(driver.heard()).toEqual([
      [0, CONSOLE_PORT, 1, ''],
      [0, PORT_OPEN, 1, ''],
    ])
    driver.say(1, PORT_READY, 1)
    expect(driver.heard()).toEqual([[1, PORT_NAME, 1, 'org.test.0']])
    port.connect(true)
    expect(driver.heard()).toEqual([[1, PORT_OPEN, 1, '']])
    port.connect(false)
    expect(driver.heard()).toEqual([[1, PORT_OPEN, 0, '']])
    driver.say(7, PORT_READY, 1)
    expect(driver.heard(), 'a port that is not there').toEqual([])
    expect(bench.guestErrors).toEqual([])
  })

  it('carries bytes both ways, and waits where the other side is slow', async () => {
    const line = new Line()
    await using bench = await VirtioBench.create(devices(line, new Line()))
    bench.machine.start()
    const { queues, notify, say } = startDriver(bench)
    line.type('too early')
    expect(line.readable, 'nobody in the guest reads').toBe(false)
    say(0, PORT_OPEN, 1)
    queues[0]!.add({ at: DATA, length: 4, deviceWrites: true })
    queues[0]!.add({ at: DATA + 64, length: 64, deviceWrites: true })
    notify(0)
    expect(new TextDecoder().decode(bench.peek(DATA, 4))).toBe('too ')
    expect(queues[0]!.usedElement(1)).toEqual({ id: 1, length: 5 })
    expect(line.readable).toBe(true)

    line.slow = true
    send(bench, queues[1]!, 'one ')
    send(bench, queues[1]!, 'two ', DATA + 0x100)
    notify(1)
    expect(line.text).toBe('one ')
    line.slow = false
    line.settle()
    await queues[1]!.used(2)
    expect(line.text).toBe('one two ')
  })

  it('throws away what is sent to a port that nobody holds, and to one that is not there', async () => {
    const port = new Line(false)
    await using bench = await VirtioBench.create(
      devices(new Line(), port)
        .slice(0, 1)
        .concat(virtserialport({ chardev: port })),
    )
    bench.machine.start()
    const { queues, notify } = startDriver(bench)
    send(bench, queues[5]!, 'lost')
    send(bench, queues[1]!, 'lost')
    notify(5)
    notify(1)
    expect([queues[5]!.usedIdx, queues[1]!.usedIdx]).toEqual([1, 1])
    expect(port.text).toBe('')
  })

  it('serves a driver that knows one port only', async () => {
    const line = new Line()
    await using bench = await VirtioBench.create(devices(line, new Line()))
    bench.machine.start()
    const { queues, notify, bar } = startModern(bench, 1, { queues: 2 })
    line.type('hi')
    queues[0]!.add({ at: DATA, length: 64, deviceWrites: true })
    notify(0)
    expect(queues[0]!.usedElement(0)).toEqual({ id: 0, length: 2 })
    send(bench, queues[1]!, 'there')
    notify(1)
    bench.write(bar + 0x2008, 0x21) // emerg_wr
    expect(line.text).toBe('there!')
  })

  it('is refused with a number of ports, or a port, that cannot be', async () => {
    const refused = (...specs: DeviceSpec[]) => VirtioBench.create([virtioSerial({ max_ports: 2 }), ...specs])
    await expect(VirtioBench.create([virtioSerial({ max_ports: 512 })])).rejects.toThrow('max_ports')
    await expect(VirtioBench.create([virtconsole({})])).rejects.toThrow('no bus takes virtio-serial devices')
    await expect(refused(virtserialport({ nr: 0 }))).rejects.toThrow('nr=0 is kept for a virtconsole')
    await expect(refused(virtserialport({}), virtserialport({ nr: 1 }))).rejects.toThrow('nr=1 is taken')
    await expect(refused(virtserialport({}), virtserialport({}))).rejects.toThrow('no port left')
    await expect(refused(virtserialport({ nr: 5 }))).rejects.toThrow('there is no port 5')
  })
})

describe('what a console device saves', () => {
  async function pair() {
    const lines = [new Line(), new Line(), new Line(), new Line(false)] as const
    return {
      lines,
      from: await VirtioBench.create(devices(lines[0], lines[1])),
      to: await VirtioBench.create(devices(lines[2], lines[3])),
    }
  }

  it('goes on where it was: open ports, a buffer sent half, and the news that nobody is at the other end', async () => {
    const { from, to, lines } = await pair()
    await using _from = from
    await using _to = to
    from.machine.start()
    const driver = startDriver(from)
    driver.say(0, PORT_OPEN, 1)
    const before = driver.heard().length
    // More than goes out at once, and the host stops taking it after the first part.
    const text = 'x'.repeat(64 * 1024) + 'the rest'
    lines[0].slow = true
    from.poke(DATA, new TextEncoder().encode(text))
    driver.queues[1]!.add({ at: DATA, length: 40_000 }, { at: DATA + 40_000, length: text.length - 40_000 })
    driver.notify(1)
    expect(lines[0].text.length).toBe(64 * 1024)
    await from.machine.stop()
    const body = from.save(IDSTR)
    to.ram.set(from.ram)
    to.load(IDSTR, body, 3)
    expect(Buffer.compare(to.save(IDSTR), body), 'what arrived leaves again').not.toBe(0) // host_connected is ours
    to.machine.start()
    expect(lines[2].text).toBe('the rest')
    lines[2].type('answer')
    const there = { ...driver, used: to.peek16(driver.queues[1]!.q.used + 2) }
    expect(there.used).toBe(1)
    expect(to.peek16(driver.queues[2]!.q.used + 2), 'PORT_OPEN 0 for port 1').toBe(before + 1)
  })

  it('fits only a device with the same ports', async () => {
    await using from = await VirtioBench.create(devices(new Line(), new Line()))
    await using to = await VirtioBench.create([virtioSerial({}, { bus: 'pcie.0' }), virtconsole({})])
    expect(() => to.load(IDSTR, from.save(IDSTR), 3)).toThrow(/has ports 0, 1, this one has 0 /)
  })

  it('is refused, or harmless, when it is damaged', async () => {
    const { from, to } = await pair()
    await using _from = from
    await using _to = to
    const saved = from.save(IDSTR)
    const own = saved.length - 46_582 + 1399 - 48 // where the device's own data begins
    for (let at = own; at < own + 48; at++) {
      const bytes = saved.slice()
      bytes[at]! ^= 0x81
      try {
        to.load(IDSTR, bytes, 3)
      } catch (error) {
        expect((error as { code?: string }).code ?? (error as Error).message).toMatch(/^FERRY_|bytes left/)
      }
      to.machine.start()
      await to.machine.stop()
    }
    expect(() => to.load(IDSTR, saved.subarray(0, own + 20), 3)).toThrow()
  })
})
