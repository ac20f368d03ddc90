/**
 * virtio network card on any core `NetBackend`.
 * Spec: virtio 1.2, section 5.1; virt-machine.md section 6.9 for what is offered, virt-vmstate.md section 9 for what is saved.
 * Not modelled: offloads of checksums and segmentation, several queue pairs.
 */
import {
  defineDevice,
  gatedNetBackend,
  MAX_FRAME_BYTES,
  type NetBackend,
  nextTurn,
  type OutputGate,
  registersItself,
  type VirtioTransport,
  VmstateMismatchError,
} from '@ferryvm/core'
import { z } from 'zod'
import { feature, STATUS_DRIVER_OK, VirtioDevice, type VirtioModel, type VirtioModelState } from '../virtio-device.ts'
import { registerVirtioSection } from '../virtio-section.ts'
import { gather, scatter, segmentBytes, type Virtqueue, type VirtqueueElement } from '../virtqueue.ts'
import { ACK_ERROR, type ControlTarget, execute } from './control-queue.ts'
import { ReceiveFilter } from './receive-filter.ts'
import { MAC_BYTES, STATUS_LINK_UP, type VirtioNetState, virtioNetTable } from './virtio-net-vmstate.ts'

const DEVICE_ID = 1
const SECTION_VERSION = 11
const CONFIG_BYTES = 8
const RX = 0
const TX = 1
const QUEUE_SIZES = [256, 256, 64]

/** CTRL_GUEST_OFFLOADS, MAC, STATUS, CTRL_VQ, CTRL_RX, CTRL_RX_EXTRA. */
const F_ALWAYS = feature(2, 5, 16, 17, 18, 20)
/** All of a kind of packet at once; nobody but a legacy driver asks. */
const F_GSO = feature(6)
const F_MRG_RXBUF = feature(15)
const F_CTRL_VLAN = feature(19)
const F_GUEST_ANNOUNCE = feature(21)
const F_CTRL_MAC_ADDR = feature(23)
const F_CTRL_VQ = feature(17)
const VERSION_1 = 1n << 32n
const STATUS_ANNOUNCE = 2

/** In front of every frame in guest memory; the longer one ends with the number of buffers. */
const HEADER_BYTES = 12
const LEGACY_HEADER_BYTES = 10
const NUM_BUFFERS_AT = 10
const ETHERNET_HEADER_BYTES = 14
/** A driver's command is at most its header and a table of addresses; Linux sends 64 KiB at worst. */
const COMMAND_BYTES_MAX = 1 << 16

/** Frames for which the guest has no buffers; more are dropped, as on any network. */
const MAX_WAITING = 256
/** The option ROM's place; without a PXE image its contents are zeros. */
const ROM_BYTES = 256 * 1024

const isNetBackend = (value: unknown): value is NetBackend =>
  typeof value === 'object' && value !== null && typeof (value as NetBackend).send === 'function'

export const virtioNet = defineDevice({
  type: 'virtio-net',
  props: z.strictObject({
    /** Where frames go and come from. Absent: nowhere. */
    netdev: z.custom<NetBackend>(isNetBackend, 'needs a network backend').optional(),
    /** Six bytes in hexadecimal, with colons. */
    mac: z
      .string()
      .regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i, 'is not an address like 52:54:00:12:34:56')
      .refine((mac) => !(Number.parseInt(mac.slice(0, 2), 16) & 1), 'is a multicast address')
      .default('52:54:00:12:34:56'),
    /** Empty: no option ROM on PCI. Both sides of a migration have one, or none. */
    romfile: z.literal('', 'can only be empty: no option ROM').optional(),
  }),
  bus: 'virtio',
  migration: registersItself,
  realize(ctx, { netdev, mac, romfile }) {
    const address = Uint8Array.from(mac.split(':'), (byte) => Number.parseInt(byte, 16))
    const net = new VirtioNet(netdev && gatedNetBackend(netdev, ctx.machine.output), address, ctx.machine.output)
    const device = new VirtioDevice(ctx, net)
    net.device = device
    registerVirtioSection(ctx, device, SECTION_VERSION)
    const { addRom } = ctx.bus as VirtioTransport
    if (addRom && romfile === undefined) {
      const { block } = ctx.ram(`${ctx.path}/virtio-net-pci.rom`, ROM_BYTES)
      addRom.call(ctx.bus, ROM_BYTES, { read: (offset, bytes) => littleEndian(block.bytes, offset, bytes), write() {} })
    }
    return {
      reset: () => device.reset(),
      resume: () => device.resume(),
      announce: () => net.announce(),
      quiesce: async () => device.quiesce(),
      unrealize: () => {
        device.quiesce()
        net.close()
      },
      describe: () => `${mac}${netdev ? '' : ', no network'}`,
    }
  },
})

class VirtioNet implements VirtioModel, ControlTarget {
  readonly name = 'virtio-net'
  readonly deviceId = DEVICE_ID
  readonly configBytes = CONFIG_BYTES
  readonly queueSizes = QUEUE_SIZES
  readonly features = F_ALWAYS | F_GSO | F_MRG_RXBUF | F_CTRL_VLAN | F_GUEST_ANNOUNCE | F_CTRL_MAC_ADDR
  readonly legacyFeatures = F_GSO
  readonly filter = new ReceiveFilter()
  readonly state: VirtioModelState<VirtioNetState> = {
    table: virtioNetTable,
    collect: () => this.#collect(),
    accept: (state) => this.#accept(state),
  }
  device!: VirtioDevice
  readonly #network: NetBackend | undefined
  readonly #output: OutputGate
  readonly #powerOnMac: Uint8Array
  readonly #listener: Disposable | undefined
  #mac: Uint8Array
  #status = STATUS_LINK_UP
  #offloads = 0n
  #waiting: Uint8Array[] = []
  /** The backend has not settled the last frame. */
  #busy = false
  #closed = false

  constructor(network: NetBackend | undefined, mac: Uint8Array, output: OutputGate) {
    this.#network = network
    this.#output = output
    this.#powerOnMac = mac
    this.#mac = mac.slice()
    this.#listener = network?.onReceive((frame) => this.#fromNetwork(frame))
  }

  process(queue: Virtqueue): void {
    if (queue.index === RX) this.#toGuest(queue)
    else if (queue.index === TX) this.#fromGuest(queue)
    else this.#control(queue)
  }

  readConfig(into: Uint8Array): void {
    into.set(this.#mac)
    into[MAC_BYTES] = this.#status
    into[MAC_BYTES + 1] = 0
  }

  /** A legacy driver without the command for it writes the address here. */
  writeConfig(config: Uint8Array): void {
    if (!this.device.modern && !this.device.has(F_CTRL_MAC_ADDR)) this.#mac = config.slice(0, MAC_BYTES)
  }

  featuresChanged(): void {
    this.filter.filterVlans(this.device.has(F_CTRL_VLAN))
  }

  reset(): void {
    this.filter.reset()
    this.#mac = this.#powerOnMac.slice()
    this.#status &= ~STATUS_ANNOUNCE
    this.#offloads = 0n
    this.#waiting = []
  }

  close(): void {
    this.#closed = true
    this.#listener?.[Symbol.dispose]()
  }

  setMac(mac: Uint8Array): void {
    this.#mac = mac
  }

  announced(): void {
    this.#status &= ~STATUS_ANNOUNCE
  }

  /** None are offered. */
  setOffloads(offloads: bigint): boolean {
    return offloads === 0n
  }

  get #headerBytes(): number {
    return this.device.has(VERSION_1) || this.device.has(F_MRG_RXBUF) ? HEADER_BYTES : LEGACY_HEADER_BYTES
  }

  #fromNetwork(frame: Uint8Array): void {
    const { device } = this
    const takes = device.status & STATUS_DRIVER_OK && device.usable
    if (!takes || frame.length < ETHERNET_HEADER_BYTES || frame.length > MAX_FRAME_BYTES) return
    if (this.#waiting.length < MAX_WAITING && this.filter.accepts(frame, this.#mac)) this.#waiting.push(frame)
    device.process(RX)
    this.#network?.setReadable?.(this.#waiting.length < MAX_WAITING / 2)
  }

  /** Spec: virtio 1.2, section 5.1.6.4. */
  #toGuest(queue: Virtqueue): void {
    const { device } = this
    const header = new Uint8Array(this.#headerBytes)
    const mergeable = device.has(F_MRG_RXBUF)
    while (this.#waiting.length > 0) {
      const frame = this.#waiting[0]!
      const bytes = new Uint8Array(header.length + frame.length)
      bytes.set(frame, header.length)
      const elements = this.#popFor(queue, bytes.length, mergeable)
      if (elements === 'none') break
      this.#waiting.shift()
      if (elements === 'too small') continue
      if (header.length === HEADER_BYTES) bytes[NUM_BUFFERS_AT] = elements.length
      let done = 0
      const returned = []
      for (const element of elements) {
        const part = bytes.subarray(done, done + segmentBytes(element.in))
        if (!scatter(device.dma, element.in, 0, part)) {
          device.fail(`queue ${queue.index}: the buffer of request ${element.index} cannot be written`)
          return
        }
        returned.push({ element, written: part.length })
        done += part.length
      }
      queue.pushAll(returned)
    }
    this.#network?.setReadable?.(this.#waiting.length < MAX_WAITING / 2)
  }

  /** Buffers for so many bytes: one, or as many as it takes where they may be merged. */
  #popFor(queue: Virtqueue, bytes: number, mergeable: boolean): VirtqueueElement[] | 'none' | 'too small' {
    const elements: VirtqueueElement[] = []
    const putBack = () => queue.unpop(elements.length)
    for (let room = 0; room < bytes; ) {
      let element: VirtqueueElement | undefined
      try {
        element = queue.pop()
      } catch (error) {
        putBack() // its memory has not arrived: all of them are popped again when it has
        throw error
      }
      if (!element) {
        putBack()
        return 'none'
      }
      elements.push(element)
      room += segmentBytes(element.in)
      if (!mergeable && room < bytes) {
        putBack()
        return 'too small'
      }
    }
    return elements
  }

  #fromGuest(queue: Virtqueue): void {
    const { device } = this
    for (let n = 0; !this.#busy; n++) {
      // A guest that refills as fast as we send must not keep the device thread to itself.
      if (n === queue.size) {
        this.#wait(nextTurn())
        return
      }
      const element = queue.pop()
      if (!element) return
      const headerBytes = this.#headerBytes
      const length = segmentBytes(element.out) - headerBytes
      if (length < 0) {
        device.fail(`queue ${queue.index}: request ${element.index} has no room for its header`)
        return
      }
      const frame = new Uint8Array(Math.min(length, MAX_FRAME_BYTES))
      if (!gather(device.dma, element.out, headerBytes, frame)) {
        device.fail(`queue ${queue.index}: the buffer of request ${element.index} cannot be read`)
        return
      }
      queue.push(element, 0)
      if (length < ETHERNET_HEADER_BYTES || length > MAX_FRAME_BYTES) continue
      const later = this.#network?.send(frame)
      if (later) this.#wait(later)
    }
  }

  #wait(later: Promise<void>): void {
    this.#busy = true
    const goOn = () => {
      this.#busy = false
      this.device.process(TX)
    }
    later.then(goOn, (error: unknown) => {
      this.device.reportIoError(error)
      goOn()
    })
  }

  #control(queue: Virtqueue): void {
    const { device } = this
    for (let n = 0; n < queue.size; n++) {
      const element = queue.pop()
      if (!element) return
      const length = segmentBytes(element.out)
      if (segmentBytes(element.in) < 1) {
        device.fail(`queue ${queue.index}: request ${element.index} has no room for its answer`)
        return
      }
      const command = new Uint8Array(Math.min(length, COMMAND_BYTES_MAX))
      const whole = length <= COMMAND_BYTES_MAX && gather(device.dma, element.out, 0, command)
      const ack = whole ? execute(command, this) : ACK_ERROR
      if (!scatter(device.dma, element.in, 0, Uint8Array.of(ack))) {
        device.fail(`queue ${queue.index}: the answer to request ${element.index} cannot be written`)
        return
      }
      queue.push(element, 1)
    }
  }

  /**
   * Says where the guest is now: to the network in its name, and to a driver that can say more. Not from a checkpoint's
   * other side, whose guest has not moved.
   */
  announce(): void {
    if (!this.#network || this.#closed || this.#output.closed) return
    this.#network.send(reverseArp(this.#mac))?.catch((error: unknown) => this.device.reportIoError(error))
    if (!this.device.has(F_GUEST_ANNOUNCE) || !this.device.has(F_CTRL_VQ)) return
    this.#status |= STATUS_ANNOUNCE
    this.device.configChanged()
  }

  #collect(): VirtioNetState {
    const state = virtioNetTable({ queues: QUEUE_SIZES.length, guestFeatures: 0 }).createState()
    return Object.assign(state, this.filter.state, {
      mac: this.#mac,
      mergeable_rx_bufs: this.device.has(F_MRG_RXBUF) ? 1 : 0,
      status: this.#status,
      curr_guest_offloads: this.#offloads,
    })
  }

  /** @throws VmstateMismatchError the sender's card offers what ours does not */
  #accept(state: VirtioNetState): void {
    if (state.has_vnet_hdr !== 0 || state.has_ufo !== 0) {
      throw new VmstateMismatchError('has_vnet_hdr', "the sender's network (a tap, say) takes frames with offloads")
    }
    if (state.rss_enabled)
      throw new VmstateMismatchError('rss_enabled', "the sender's card sorts frames into queues (RSS)")
    this.#mac = state.mac.slice()
    this.#status = state.status
    this.#offloads = state.curr_guest_offloads
    this.#waiting = []
    this.filter.load(state)
  }
}

/** A question that nobody answers, for the sake of its sender's address. Spec: RFC 903. */
function reverseArp(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(60)
  const view = new DataView(frame.buffer)
  frame.fill(0xff, 0, MAC_BYTES)
  frame.set(mac, MAC_BYTES)
  view.setUint16(12, 0x8035)
  view.setUint16(14, 1) // Ethernet
  view.setUint16(16, 0x0800) // IPv4
  frame.set([MAC_BYTES, 4], 18)
  view.setUint16(20, 3) // request
  frame.set(mac, 22)
  frame.set(mac, 32)
  return frame
}

function littleEndian(from: Uint8Array, offset: number, bytes: number): number {
  let value = 0
  for (let i = bytes - 1; i >= 0; i--) value = (value << 8) | (from[offset + i] ?? 0xff)
  return value >>> 0
}
