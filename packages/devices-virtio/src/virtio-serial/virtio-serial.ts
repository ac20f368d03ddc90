/**
 * virtio console device: a bus of up to 511 byte streams, of which some are consoles.
 * Spec: virtio 1.2, section 5.3; virt-machine.md section 6.9 and virt-vmstate.md section 9 for what stock's is like.
 * Not modelled: window sizes, ports that come and go while the machine runs.
 */
import {
  type BusAttachment,
  type BusRequest,
  DeviceConfigError,
  defineDevice,
  type OutputGate,
  registersItself,
  VmstateMismatchError,
} from '@ferryvm/core'
import { z } from 'zod'
import { feature, STATUS_DRIVER_OK, VirtioDevice, type VirtioModel, type VirtioModelState } from '../virtio-device.ts'
import { registerVirtioSection } from '../virtio-section.ts'
import { gather, scatter, segmentBytes, type Virtqueue } from '../virtqueue.ts'
import { SerialPort, type SerialPortHost, type SerialPortOptions } from './serial-port.ts'
import { MAX_PORTS, type VirtioConsoleState, virtioConsoleTable } from './virtio-console-vmstate.ts'

const DEVICE_ID = 3
const SECTION_VERSION = 3
const CONFIG_BYTES = 12
/** All ports share one, as on the reference board. */
const MSIX_VECTORS = 2
const PORT_QUEUE_SIZE = 128
const CONTROL_QUEUE_SIZE = 32
const CONTROL_TO_GUEST = 2
const CONTROL_FROM_GUEST = 3

const F_MULTIPORT = feature(1)
const F_EMERG_WRITE = feature(2)
const EMERG_WRITE_AT = 8

/** Control messages: port u32, event u16, value u16, little-endian. */
const MESSAGE_BYTES = 8
const DEVICE_READY = 0
const DEVICE_ADD = 1
const PORT_READY = 3
const CONSOLE_PORT = 4
const PORT_OPEN = 6
const PORT_NAME = 7
/** Messages for which the guest has no buffer; it gives 32 at once. */
const MESSAGES_PER_PORT = 4

export const virtioSerial = defineDevice({
  type: 'virtio-serial',
  props: z
    .strictObject({
      /** Ports that could be there; each has two queues. */
      max_ports: z.coerce.number().int().min(1).max(MAX_PORTS).default(31),
    })
    .prefault({}),
  bus: 'virtio',
  migration: registersItself,
  realize(ctx, { max_ports }) {
    const serial = new VirtioConsole(max_ports, ctx.machine.output)
    const device = new VirtioDevice(ctx, serial)
    serial.device = device
    registerVirtioSection(ctx, device, SECTION_VERSION)
    ctx.machine.provideBus({
      name: `${ctx.id}.0`,
      accepts: ['virtio-serial'],
      attach: ({ deviceId, options }: BusRequest): BusAttachment => {
        const stranger = Object.keys(options ?? {})[0]
        if (stranger) throw new DeviceConfigError(deviceId, `'${stranger}' is not an option of a virtio serial port`)
        return { path: '', context: serial, dma: device.dma }
      },
    })
    return {
      reset: () => device.reset(),
      resume: () => device.resume(),
      quiesce: async () => device.quiesce(),
      unrealize: () => {
        device.quiesce()
        for (const port of serial.ports) port.close()
      },
      describe: () => `${serial.ports.length} ports`,
    }
  },
})

interface ControlMessage {
  readonly port: number
  readonly event: number
  readonly value: number
  readonly text?: string
}

/** What ports get as `ctx.bus`. */
export class VirtioConsole implements VirtioModel, SerialPortHost {
  readonly name = 'virtio-console'
  readonly deviceId = DEVICE_ID
  readonly configBytes = CONFIG_BYTES
  readonly msixVectors = MSIX_VECTORS
  readonly features: bigint
  readonly queueSizes: readonly number[]
  readonly ports: SerialPort[] = []
  readonly state: VirtioModelState<VirtioConsoleState> = {
    table: virtioConsoleTable,
    collect: () => this.#collect(),
    accept: (state) => this.#accept(state),
  }
  device!: VirtioDevice
  readonly #maxPorts: number
  readonly #output: OutputGate
  #messages: ControlMessage[] = []
  /** Ports whose host end differs from what the guest was told, as a loaded state says. */
  #toTell = new Set<SerialPort>()

  constructor(maxPorts: number, output: OutputGate) {
    this.#maxPorts = maxPorts
    this.#output = output
    // Without multiport there are no control queues.
    this.features = F_EMERG_WRITE | (maxPorts > 1 ? F_MULTIPORT : 0n)
    this.queueSizes = Array.from({ length: 2 * (maxPorts + 1) }, (_, index) =>
      index === CONTROL_TO_GUEST || index === CONTROL_FROM_GUEST ? CONTROL_QUEUE_SIZE : PORT_QUEUE_SIZE,
    )
  }

  /**
   * @param nr default: the first free one; 0 is kept for a console
   * @throws DeviceConfigError the number is taken or does not exist
   */
  addPort(deviceId: string, options: SerialPortOptions, nr?: number): void {
    const first = options.isConsole ? 0 : 1
    const ids = Array.from({ length: this.#maxPorts }, (_, id) => id)
    const id = nr ?? ids.find((n) => n >= first && !this.#port(n))
    if (id === undefined || id >= this.#maxPorts) {
      throw new DeviceConfigError(
        deviceId,
        `there is no port ${id ?? 'left'}: the virtio serial device has ${this.#maxPorts}`,
      )
    }
    if (id < first) throw new DeviceConfigError(deviceId, 'nr=0 is kept for a virtconsole')
    if (this.#port(id)) throw new DeviceConfigError(deviceId, `nr=${id} is taken`)
    this.ports.push(new SerialPort(id, options, this, this.#output))
  }

  queues(id: number): readonly [Virtqueue, Virtqueue] {
    const first = id === 0 ? 0 : 2 * id + 2
    return [this.device.queues[first]!, this.device.queues[first + 1]!]
  }

  hostChanged(port: SerialPort): void {
    this.#tell({ port: port.id, event: PORT_OPEN, value: port.hostConnected ? 1 : 0 })
  }

  process(queue: Virtqueue): void {
    if (queue.index === CONTROL_TO_GUEST) this.#sendMessages()
    else if (queue.index === CONTROL_FROM_GUEST) this.#takeMessages(queue)
    else {
      const port = this.#port(queue.index < 2 ? 0 : (queue.index >> 1) - 1)
      if (queue.index % 2 === 0) port?.toGuest()
      else if (port) port.fromGuest()
      else this.#discard(queue)
    }
  }

  readConfig(into: Uint8Array): void {
    into.fill(0)
    new DataView(into.buffer, into.byteOffset).setUint32(4, this.#maxPorts, true)
  }

  /** A character for the console of a driver that is not up yet. Spec: virtio 1.2, section 5.3.4. */
  writeConfig(config: Uint8Array): void {
    const character = config[EMERG_WRITE_AT]!
    config[EMERG_WRITE_AT] = 0
    if (character !== 0) this.#port(0)?.print(Uint8Array.of(character))
  }

  statusChanged(status: number): void {
    // A driver that knows only one port cannot say that it has opened it.
    if (status & STATUS_DRIVER_OK && !this.#multiport) this.#port(0)?.setGuestConnected(true)
    if (!(status & STATUS_DRIVER_OK)) this.reset()
  }

  reset(): void {
    this.#messages = []
    this.#toTell.clear()
    for (const port of this.ports) port.reset()
  }

  loaded(): void {
    this.#messages = []
    for (const port of this.#toTell) this.hostChanged(port)
    this.#toTell.clear()
  }

  get #multiport(): boolean {
    return this.device.has(F_MULTIPORT)
  }

  #port(id: number): SerialPort | undefined {
    return this.ports.find((port) => port.id === id)
  }

  /** What a guest sends to a port that does not exist. */
  #discard(queue: Virtqueue): void {
    for (let n = 0; n < queue.size; n++) {
      const element = queue.pop()
      if (!element) return
      queue.push(element, 0)
    }
  }

  #tell(message: ControlMessage): void {
    if (!this.#multiport || this.#messages.length >= MESSAGES_PER_PORT * this.#maxPorts) return
    this.#messages.push(message)
    this.device.process(CONTROL_TO_GUEST)
  }

  #sendMessages(): void {
    const { device } = this
    const queue = device.queues[CONTROL_TO_GUEST]!
    while (this.#messages.length > 0) {
      const element = queue.pop()
      if (!element) return
      const { port, event, value, text = '' } = this.#messages.shift()!
      const bytes = new Uint8Array(MESSAGE_BYTES + text.length)
      const view = new DataView(bytes.buffer)
      view.setUint32(0, port, true)
      view.setUint16(4, event, true)
      view.setUint16(6, value, true)
      bytes.set(new TextEncoder().encode(text), MESSAGE_BYTES)
      const fits = bytes.subarray(0, segmentBytes(element.in))
      if (!scatter(device.dma, element.in, 0, fits)) {
        device.fail(`queue ${queue.index}: the buffer of request ${element.index} cannot be written`)
        return
      }
      queue.push(element, fits.length)
    }
  }

  #takeMessages(queue: Virtqueue): void {
    for (let n = 0; n < queue.size; n++) {
      const element = queue.pop()
      if (!element) return
      const bytes = new Uint8Array(MESSAGE_BYTES)
      const whole = gather(this.device.dma, element.out, 0, bytes)
      queue.push(element, 0)
      if (whole) this.#handle(new DataView(bytes.buffer))
    }
  }

  #handle(message: DataView): void {
    const event = message.getUint16(4, true)
    const on = message.getUint16(6, true) !== 0
    if (event === DEVICE_READY) {
      if (on) for (const { id } of this.ports) this.#tell({ port: id, event: DEVICE_ADD, value: 1 })
      return
    }
    const port = this.#port(message.getUint32(0, true))
    if (!port) return
    if (event === PORT_OPEN) port.setGuestConnected(on)
    else if (event === PORT_READY && on) {
      if (port.isConsole) this.#tell({ port: port.id, event: CONSOLE_PORT, value: 1 })
      if (port.name) this.#tell({ port: port.id, event: PORT_NAME, value: 1, text: port.name })
      if (port.hostConnected) this.#tell({ port: port.id, event: PORT_OPEN, value: 1 })
    }
  }

  #portsMap(): Uint32Array {
    const map = new Uint32Array(Math.ceil(this.#maxPorts / 32))
    for (const id of [0, ...this.ports.map((port) => port.id)]) map[id >> 5]! |= 1 << (id & 31)
    return map
  }

  #collect(): VirtioConsoleState {
    return {
      cols: 0,
      rows: 0,
      max_nr_ports: this.#maxPorts,
      ports_map: this.#portsMap(),
      nr_active_ports: this.ports.length,
      ports: this.ports.map((port) => port.collect()),
    }
  }

  /** @throws VmstateMismatchError the sender's device has other ports */
  #accept(state: VirtioConsoleState): void {
    const mine = this.#portsMap()
    if (state.ports_map.length !== mine.length || state.ports_map.some((word, i) => word !== mine[i])) {
      throw new VmstateMismatchError(
        'ports_map',
        `the sender's device has ports ${portNumbers(state.ports_map)}, this one has ${portNumbers(mine)} (0 is kept for a console in any case)`,
      )
    }
    this.#toTell.clear()
    for (const saved of state.ports) {
      const port = this.#port(saved.id)
      if (!port) throw new VmstateMismatchError('ports', `the sender uses port ${saved.id}, which this device has not`)
      port.accept(saved)
      if ((saved.host_connected !== 0) !== port.hostConnected) this.#toTell.add(port)
    }
  }
}

const portNumbers = (map: Uint32Array): string =>
  Array.from({ length: 32 * map.length }, (_, id) => id)
    .filter((id) => (map[id >> 5]! >>> (id & 31)) & 1)
    .join(', ')
