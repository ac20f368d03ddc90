/**
 * virtio IOMMU in front of a PCI bus: the guest says in requests which function reaches what.
 * Spec: virtio 1.2, section 5.13; iommu.md section b. Its section is loaded before those of the devices behind it.
 * Not modelled: regions of functions that are reserved, page tables in guest memory.
 */
import {
  type AddressSpace,
  DeviceConfigError,
  defineDevice,
  type Iommu,
  type IommuAttachPoint,
  MigrationPriority,
  registersItself,
  type VirtioTransport,
  VmstateMismatchError,
} from '@ferryvm/core'
import { z } from 'zod'
import { feature, VirtioDevice, type VirtioModel, type VirtioModelState } from '../virtio-device.ts'
import { registerVirtioSection } from '../virtio-section.ts'
import { gather, scatter, segmentBytes, type Virtqueue, type VirtqueueElement } from '../virtqueue.ts'
import { Domains, FLAG_READ, FLAG_WRITE, Status } from './domains.ts'
import { execute, HEAD_BYTES, PROBE_BYTES, REQUEST_BYTES_MAX, T_PROBE, TAIL_BYTES } from './requests.ts'
import { type VirtioIommuState, virtioIommuTable } from './virtio-iommu-vmstate.ts'

const DEVICE_ID = 23
const SECTION_VERSION = 2
const CONFIG_BYTES = 40
const QUEUE_SIZE = 256
const REQUESTS = 0
const EVENTS = 1
/** INPUT_RANGE, DOMAIN_RANGE, MAP_UNMAP, PROBE, MMIO, BYPASS_CONFIG. */
const FEATURES = feature(0, 1, 2, 4, 5, 6)
const F_BYPASS_CONFIG = feature(6)
const PAGE_SIZE_MASK = 0xffff_ffff_ffff_f000n
const BYPASS_AT = 36

const FAULT_BYTES = 24
const FAULT_UNKNOWN = 0
const FAULT_DOMAIN = 1
const FAULT_MAPPING = 2
const FAULT_HAS_ADDRESS = 0x100

const onOff = z.union([z.boolean(), z.enum(['on', 'off']).transform((value) => value === 'on')])

export const virtioIommu = defineDevice({
  type: 'virtio-iommu',
  props: z
    .strictObject({
      /** Whether functions that are in no domain reach memory untranslated, after power-on. */
      'boot-bypass': onOff.default(true),
      /** The PCI bus whose functions it translates for. */
      'primary-bus': z.string().default('pcie.0'),
    })
    .prefault({}),
  bus: 'virtio',
  migration: registersItself,
  realize(ctx, { 'boot-bypass': bootBypass, 'primary-bus': bus }) {
    if ((ctx.bus as VirtioTransport).kind !== 'pci') throw new DeviceConfigError(ctx.id, 'a virtio-iommu sits on PCI')
    const iommu = new VirtioIommu(ctx.id, ctx.machine.physical, bootBypass)
    const device = new VirtioDevice(ctx, iommu)
    iommu.device = device
    registerVirtioSection(ctx, device, SECTION_VERSION, MigrationPriority.IOMMU)
    ctx.machine.onIommuAttachPoint(bus, (point) => iommu.attach(point, ctx.path))
    return {
      reset: () => {
        device.reset()
        iommu.bypass = bootBypass
      },
      resume: () => device.resume(),
      quiesce: async () => device.quiesce(),
      unrealize: () => device.quiesce(),
      describe: () => iommu.describe(),
    }
  },
})

class VirtioIommu implements VirtioModel, Iommu {
  readonly name = 'virtio-iommu'
  readonly deviceId = DEVICE_ID
  readonly configBytes = CONFIG_BYTES
  /** Stock's has none. */
  readonly msixVectors = 0
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE]
  readonly features = FEATURES
  readonly state: VirtioModelState<VirtioIommuState> = {
    table: virtioIommuTable,
    collect: () => ({ domains: this.#domains.state, bypass: this.bypass ? 1 : 0 }),
    accept: ({ domains, bypass }) => {
      const stranger = this.#domains.load(domains)
      if (stranger !== undefined) {
        throw new VmstateMismatchError(
          'domains',
          `the sender's IOMMU translates for PCI function 0x${stranger.toString(16)}, which this machine has not`,
        )
      }
      this.bypass = bypass === 1
    },
  }
  device!: VirtioDevice
  /** Functions in no domain reach memory untranslated. Survives a reset of the device. */
  bypass: boolean
  readonly #id: string
  readonly #memory: AddressSpace
  readonly #domains = new Domains((endpoint) => this.#exists(endpoint))
  readonly #spaces = new Map<number, AddressSpace>()
  #exists: (endpoint: number) => boolean = () => false

  constructor(id: string, memory: AddressSpace, bypass: boolean) {
    this.#id = id
    this.#memory = memory
    this.bypass = bypass
  }

  /** @param path its own place, where it does not translate */
  attach(point: IommuAttachPoint, path: string): void {
    this.#exists = (endpoint) => point.functionAt(endpoint) !== undefined && point.functionAt(endpoint) !== path
    point.setIommu({ name: this.#id, addressSpace: (sourceId) => this.addressSpace(sourceId) })
  }

  addressSpace(sourceId: number): AddressSpace {
    let space = this.#spaces.get(sourceId)
    if (!space) this.#spaces.set(sourceId, (space = this.#spaceOf(sourceId)))
    return space
  }

  describe(): string {
    const domains = [...this.#domains.state.values()]
    return `${domains.length} domains, ${domains.reduce((sum, d) => sum + d.mappings.length, 0)} mappings`
  }

  readConfig(into: Uint8Array): void {
    const view = new DataView(into.buffer, into.byteOffset, into.length)
    into.fill(0)
    view.setBigUint64(0, PAGE_SIZE_MASK, true)
    view.setBigUint64(16, 0xffff_ffff_ffff_ffffn, true)
    view.setUint32(28, 0xffff_ffff, true)
    view.setUint32(32, PROBE_BYTES, true)
    view.setUint8(BYPASS_AT, this.bypass ? 1 : 0)
  }

  writeConfig(config: Uint8Array): void {
    const value = config[BYPASS_AT]!
    if (!this.device.has(F_BYPASS_CONFIG)) return
    if (value > 1) this.device.fail(`bypass was set to ${value}`)
    else this.bypass = value === 1
  }

  reset(): void {
    this.#domains.reset()
  }

  process(queue: Virtqueue): void {
    if (queue.index !== REQUESTS) return // buffers for events are taken when there are some
    for (let n = 0; n < queue.size; n++) {
      const element = queue.pop()
      if (!element || !this.#serve(queue, element)) return
    }
  }

  #serve(queue: Virtqueue, element: VirtqueueElement): boolean {
    const { device } = this
    const room = segmentBytes(element.in)
    const request = new Uint8Array(Math.min(segmentBytes(element.out), REQUEST_BYTES_MAX))
    if (request.length < HEAD_BYTES || room < TAIL_BYTES || !gather(device.dma, element.out, 0, request)) {
      device.fail(`queue ${queue.index}: request ${element.index} has no readable head or no room for its tail`)
      return false
    }
    const probe = request[0] === T_PROBE
    const fits = !probe || room >= PROBE_BYTES + TAIL_BYTES
    const answer = new Uint8Array(TAIL_BYTES + (probe && fits ? PROBE_BYTES : 0))
    answer[answer.length - TAIL_BYTES] = fits ? execute(request, this.#domains) : Status.DEVERR
    if (!scatter(device.dma, element.in, 0, answer)) {
      device.fail(`queue ${queue.index}: the answer to request ${element.index} cannot be written`)
      return false
    }
    queue.push(element, answer.length)
    return true
  }

  #spaceOf(endpoint: number): AddressSpace {
    const memory = this.#memory
    /** Walks a range piece by piece. @returns false: it ends where something is not reachable */
    const pieces = (
      address: number,
      bytes: number,
      write: boolean,
      quiet: boolean,
      visit: (physical: number, from: number, to: number) => boolean,
    ): boolean => {
      for (let done = 0; done < bytes; ) {
        const piece = this.#translate(endpoint, BigInt(address + done), write, quiet)
        if (!piece) return false
        const length = Math.min(bytes - done, piece.bytes)
        if (!visit(piece.physical, done, done + length)) return false
        done += length
      }
      return true
    }
    return {
      read: (address, into) =>
        pieces(address, into.length, false, false, (at, from, to) => memory.read(at, into.subarray(from, to))),
      write: (address, bytes) =>
        pieces(address, bytes.length, true, false, (at, from, to) => memory.write(at, bytes.subarray(from, to))),
      // What would be a fault is left to the access.
      demand: (address, bytes, write) => {
        pieces(address, bytes, write, true, (at, from, to) => {
          memory.demand?.(at, to - from, write)
          return true
        })
      },
    }
  }

  /** Spec: iommu.md section b.4. @returns how far the translation reaches; undefined: a fault, which was reported unless `quiet` */
  #translate(
    endpoint: number,
    address: bigint,
    write: boolean,
    quiet: boolean,
  ): { physical: number; bytes: number } | undefined {
    const domain = this.#domains.domainOf(endpoint)
    const fault = (reason: number, flags = 0) => {
      if (!quiet) this.#report(reason, flags, endpoint, address)
      return undefined
    }
    if (domain === 'unknown' || !domain) {
      if (this.bypass) return untranslated(address)
      return fault(domain === 'unknown' ? FAULT_UNKNOWN : FAULT_DOMAIN)
    }
    if (domain.bypass) return untranslated(address)
    const found = this.#domains.find(domain, address)
    if (!found) return fault(FAULT_MAPPING)
    const wanted = write ? FLAG_WRITE : FLAG_READ
    if (!(found.flags & wanted)) return fault(FAULT_MAPPING, wanted)
    return { physical: Number(found.phys + (address - found.low)), bytes: Number(found.high - address) + 1 }
  }

  /** To the guest, if it has given a buffer for it. */
  #report(reason: number, flags: number, endpoint: number, address: bigint): void {
    const { device } = this
    const queue = device.queues[EVENTS]!
    if (!device.running || !device.started) return
    const element = queue.pop()
    if (!element) return
    if (segmentBytes(element.in) < FAULT_BYTES) {
      device.fail(`queue ${queue.index}: request ${element.index} has no room for a fault`)
      return
    }
    const record = new Uint8Array(FAULT_BYTES)
    const view = new DataView(record.buffer)
    view.setUint8(0, reason)
    view.setUint32(4, flags | FAULT_HAS_ADDRESS, true)
    view.setUint32(8, endpoint, true)
    view.setBigUint64(16, address, true)
    if (scatter(device.dma, element.in, 0, record)) queue.push(element, FAULT_BYTES)
    else device.fail(`queue ${queue.index}: the buffer of request ${element.index} cannot be written`)
  }
}

const untranslated = (address: bigint) => ({ physical: Number(address), bytes: Number.MAX_SAFE_INTEGER })
