/**
 * Intel VT-d in front of a PCI bus: DMA remapping in legacy mode, register and queued invalidation, fault recording.
 * Spec: Intel VT-d architecture specification; iommu.md part (a).
 *
 * Interrupt remapping is register state only: nothing on the `virt` board receives messages, so a remappable message is
 * taken and goes nowhere while it is enabled. Not modelled: scalable mode, PASIDs, device IOTLBs, posted interrupts.
 */
import {
  type AddressSpace,
  type Device,
  type DeviceContext,
  defineDevice,
  type Iommu,
  MigrationPriority,
  nowOrWhenPagesArrive,
  registersItself,
} from '@ferryvm/core'
import { z } from 'zod'
import { type IntelIommuState, intelIommuVmstate } from './intel-iommu-vmstate.ts'
import {
  type ContextScope,
  contextScope,
  DESCRIPTOR_BYTES,
  decodeDescriptor,
  type Invalidation,
  type IotlbScope,
  iotlbScope,
  WAIT,
} from './invalidation.ts'
import * as R from './registers.ts'
import { type RemappingUnit, Requester } from './requester.ts'
import { type Context, type Fault, lookUpContext, type Mapping, walk } from './translation.ts'

const WINDOW_BYTES = 0x1000
/** Translations cached by all requesters together; all go when it is full. */
const IOTLB_ENTRIES = 1024
const MESSAGE_REMAPPABLE = 1 << 4

/** As `-device` strings and config files write it. */
const onOff = z.union([
  z.boolean(),
  z.enum(['on', 'off', 'true', 'false']).transform((v) => v === 'on' || v === 'true'),
])

const priority = z.coerce
  .number()
  .pipe(z.union(Object.values(MigrationPriority).map((level) => z.literal(level)) as [z.ZodLiteral<MigrationPriority>]))

/** Placement: registers at `at`, or the next free place on the platform bus. */
export const intelIommu = defineDevice({
  type: 'intel-iommu',
  props: z.object({
    /** Width of addresses, 39 or 48. */
    'aw-bits': z.coerce
      .number()
      .pipe(z.union([z.literal(39), z.literal(48)]))
      .default(39),
    /** CAP.CM: software invalidates also what was not present. */
    'caching-mode': onOff.default(false),
    /** ECAP.DT: context entries of type 1 are legal. */
    'device-iotlb': onOff.default(false),
    /** ECAP.PT: pass-through context entries are legal. */
    pt: onOff.default(true),
    /** ECAP.IR. */
    intremap: onOff.default(true),
    /** The PCI bus whose functions it translates for. */
    bus: z.string().default('pcie.0'),
    /** For tests only: priority of the section, so that the wrong order can be shown to fail. */
    'x-migration-priority': priority.optional(),
  }),
  migration: registersItself,
  realize(ctx, props) {
    const iommu = new IntelIommu(
      ctx,
      {
        addressWidth: props['aw-bits'],
        cachingMode: props['caching-mode'],
        deviceIotlb: props['device-iotlb'],
        passThrough: props.pt,
        interruptRemapping: props.intremap,
      },
      props['x-migration-priority'] ?? MigrationPriority.IOMMU,
    )
    ctx.machine.onIommuAttachPoint(props.bus, (point) => point.setIommu(iommu))
    return iommu
  },
})

class IntelIommu implements Device, Iommu, RemappingUnit {
  readonly name: string
  readonly memory: AddressSpace
  readonly #log: DeviceContext<undefined>['log']
  readonly #features: R.VtdFeatures
  readonly #s: IntelIommuState
  readonly #regs: R.RegisterFile
  readonly #requesters = new Map<number, Requester>()
  #cached = 0
  /** A descriptor's effect can be a write to our own registers. */
  #processing = false

  constructor(ctx: DeviceContext<undefined>, features: R.VtdFeatures, priority: MigrationPriority) {
    this.name = ctx.id
    this.memory = ctx.machine.physical
    this.#log = ctx.log
    this.#features = features
    this.#s = intelIommuVmstate.createState()
    this.#regs = new R.RegisterFile(this.#s.csr)
    this.#regs.reset(features)
    // Whatever was cached before is of another guest's life.
    ctx.registerVmstate({ ...intelIommuVmstate, priority, postLoad: () => this.#dropCaches() }, this.#s, { priority })
    ctx.mmio(WINDOW_BYTES, {
      sizes: [4, 8],
      read: (offset) => Number(this.#read(offset, 4)),
      read64: (offset) => this.#read(offset, 8),
      write: (offset, _bytes, value) => this.#write(offset, 4, BigInt(value >>> 0)),
      write64: (offset, value) => this.#write(offset, 8, value),
    })
  }

  addressSpace(sourceId: number): AddressSpace {
    let requester = this.#requesters.get(sourceId)
    if (!requester) {
      requester = new Requester(this, sourceId)
      this.#requesters.set(sourceId, requester)
    }
    return requester
  }

  reset(): void {
    const { csr } = this.#s
    Object.assign(this.#s, intelIommuVmstate.createState(), { csr })
    this.#regs.reset(this.#features)
    this.#dropCaches()
  }

  describe(): string {
    const s = this.#s
    const hex = (value: number) => `0x${value.toString(16)}`
    return `dmar=${s.dmar_enabled} root=${hex(s.root)} qi=${s.qi_enabled} head=${s.iq_head} tail=${s.iq_tail} fsts=${hex(this.#regs.get32(R.FSTS))} iotlb=${this.#cached}`
  }

  // ── what requesters need ──

  get translating(): boolean {
    return this.#s.dmar_enabled
  }

  get remappingInterrupts(): boolean {
    return this.#s.intr_enabled
  }

  lookUpContext(sourceId: number): Context | Fault {
    return lookUpContext(this.memory, this.#s.root, sourceId, this.#features)
  }

  walk(context: Context, iova: number, write: boolean): Mapping | Fault {
    return walk(this.memory, context, iova, write, this.#features)
  }

  admit(): void {
    if (this.#cached === IOTLB_ENTRIES) this.#invalidateIotlb({ all: true })
    this.#cached++
  }

  interrupt(sourceId: number, address: number, from: Uint8Array): boolean {
    if (!this.#s.intr_enabled || !(address & MESSAGE_REMAPPABLE)) return this.memory.write(address, from)
    this.#log.debug('intel-iommu: remappable interrupt message without a receiver', { sourceId, address })
    return true
  }

  /** Spec: iommu.md section a.6. */
  fault(sourceId: number, iova: number, write: boolean, { reason, suppressed }: Fault): void {
    this.#log.debug('intel-iommu: translation fault', { sourceId, iova, write, reason })
    if (suppressed) return
    const regs = this.#regs
    const before = regs.get32(R.FSTS)
    if (before & R.FSTS_PFO) return
    const record = regs.get64(R.FRCD + 8)
    if (record & R.FRCD_F) {
      if (Number(record & 0xffffn) !== sourceId) regs.change32(R.FSTS, 0, R.FSTS_PFO)
      return
    }
    regs.set64(R.FRCD, BigInt(iova - (iova % 4096)))
    const isRead = write ? 0n : 1n << 62n
    regs.set64(R.FRCD + 8, R.FRCD_F | isRead | (BigInt(reason) << 32n) | BigInt(sourceId))
    // With one record its index (FSTS.FRI) and the next one are always 0.
    regs.change32(R.FSTS, 0xff00, R.FSTS_PPF)
    if (!(before & R.FSTS_PPF)) this.#faultEvent(before)
  }

  // ── registers ──

  #read(offset: number, bytes: 4 | 8): bigint {
    if (offset + bytes > R.REGISTER_BYTES) return (1n << BigInt(8 * bytes)) - 1n
    const value = this.#regs.guestRead(offset, bytes)
    // The queue address reads as it was latched.
    if (offset === R.IQA) {
      const iqa = BigInt(this.#s.iq) | (value & 7n)
      return bytes === 8 ? iqa : iqa & 0xffff_ffffn
    }
    return offset === R.IQA + 4 ? BigInt(Math.floor(this.#s.iq / 2 ** 32)) : value
  }

  #write(offset: number, bytes: 4 | 8, value: bigint): void {
    if (offset + bytes > R.REGISTER_BYTES || offset % 4 !== 0) {
      this.#log.guestError('intel-iommu: write outside the registers', { offset })
      return
    }
    this.#regs.guestWrite(offset, bytes, value)
    for (let at = offset; at < offset + bytes; at += 4) this.#written(at)
  }

  /** What writing a 32-bit word sets off; of 64-bit registers the half that holds the command bit. */
  #written(offset: number): void {
    const regs = this.#regs
    switch (offset) {
      case R.GCMD:
        this.#globalCommand()
        break
      case R.CCMD + 4:
        this.#contextCommand()
        break
      case R.IOTLB + 4:
        this.#iotlbCommand()
        break
      case R.IQT:
        this.#s.iq_tail = (regs.get32(R.IQT) & 0x7fff0) >> 4
        this.#serveQueue()
        break
      case R.FSTS:
        if (!(regs.get32(R.FSTS) & (R.FSTS_PFO | R.FSTS_PPF | R.FSTS_IQE))) regs.change32(R.FECTL, R.EVENT_PENDING, 0)
        break
      case R.FRCD + 12:
        if (!(regs.get64(R.FRCD + 8) & R.FRCD_F)) regs.change32(R.FSTS, R.FSTS_PPF, 0)
        break
      case R.FECTL:
        this.#sendPending(R.FECTL, R.FEADDR, R.FEDATA)
        break
      case R.ICS:
        if (!(regs.get32(R.ICS) & R.ICS_IWC)) regs.change32(R.IECTL, R.EVENT_PENDING, 0)
        break
      case R.IECTL:
        this.#sendPending(R.IECTL, R.IEADDR, R.IEDATA)
        break
    }
  }

  /** Spec: iommu.md section a.4, in its order. */
  #globalCommand(): void {
    const s = this.#s
    const command = this.#regs.get32(R.GCMD)
    const changed = this.#regs.get32(R.GSTS) ^ command
    const { te, srtp, qie, sirtp, ire } = R.COMMAND
    if (changed & te) {
      s.dmar_enabled = (command & te) !== 0
      if (!s.dmar_enabled) s.next_frcd_reg = 0
      this.#report(te, s.dmar_enabled)
      this.#dropCaches()
    }
    if (command & srtp) {
      s.root = this.#address(R.RTADDR)
      this.#report(srtp, true)
      this.#dropCaches()
    }
    if (changed & qie) this.#enableQueue((command & qie) !== 0)
    if (command & sirtp) {
      const low = this.#regs.get32(R.IRTA)
      s.intr_root = this.#address(R.IRTA)
      s.intr_size = 2 ** ((low & 0xf) + 1)
      s.intr_eime = (low & 0x800) !== 0
      this.#report(sirtp, true)
    }
    if (changed & ire && this.#features.interruptRemapping) {
      s.intr_enabled = (command & ire) !== 0
      this.#report(ire, s.intr_enabled)
    }
  }

  #report(bit: number, on: boolean): void {
    this.#regs.change32(R.GSTS, bit, on ? bit : 0)
  }

  /** Page-aligned address in a register, as wide as addresses are. */
  #address(register: number): number {
    const mask = (1n << BigInt(this.#features.addressWidth)) - 4096n
    return Number(this.#regs.get64(register) & mask)
  }

  #contextCommand(): void {
    const command = this.#regs.get64(R.CCMD)
    if (!(command & (1n << 63n))) return
    if (this.#s.qi_enabled) {
      this.#log.guestError('intel-iommu: register invalidation while the queue is on')
      return
    }
    const granularity = Number((command >> 61n) & 3n)
    const scope = contextScope(granularity, Number((command >> 16n) & 0xffffn), Number((command >> 32n) & 3n))
    if (scope) this.#invalidateContexts(scope)
    // Domain-selective is done as global.
    const done = !scope ? 0n : 'all' in scope ? 1n : 3n
    this.#regs.set64(R.CCMD, (command & ~((1n << 63n) | (3n << 59n))) | (done << 59n))
  }

  #iotlbCommand(): void {
    const command = this.#regs.get64(R.IOTLB)
    if (!(command & (1n << 63n))) return
    if (this.#s.qi_enabled) {
      this.#log.guestError('intel-iommu: register invalidation while the queue is on')
      return
    }
    const granularity = Number((command >> 60n) & 3n)
    const scope = iotlbScope(granularity, Number((command >> 32n) & 0xffffn), this.#regs.get64(R.IVA))
    if (scope) this.#invalidateIotlb(scope)
    const done = scope ? BigInt(granularity) : 0n
    this.#regs.set64(R.IOTLB, (command & ~((1n << 63n) | (3n << 57n))) | (done << 57n))
  }

  // ── caches ──

  #dropCaches(): void {
    this.#invalidateContexts({ all: true })
    this.#invalidateIotlb({ all: true })
  }

  #invalidateContexts(scope: ContextScope): void {
    for (const requester of this.#requesters.values()) requester.invalidateContext(scope)
  }

  #invalidateIotlb(scope: IotlbScope): void {
    for (const requester of this.#requesters.values()) this.#cached -= requester.invalidateIotlb(scope)
  }

  // ── the invalidation queue ──

  #enableQueue(on: boolean): void {
    const s = this.#s
    if (on) {
      s.iq = this.#address(R.IQA)
      s.iq_size = 2 ** ((this.#regs.get32(R.IQA) & 7) + 8)
      s.qi_enabled = true
      this.#report(R.COMMAND.qie, true)
      if (s.iq_tail !== 0) this.#serveQueue()
    } else if (s.iq_head === s.iq_tail && s.iq_last_desc_type === WAIT) {
      this.#regs.set64(R.IQH, 0n)
      s.iq_head = 0
      s.qi_enabled = false
      this.#report(R.COMMAND.qie, false)
    } else this.#log.guestError('intel-iommu: the queue can only be turned off when empty, after a wait descriptor')
  }

  /** The guest waits for what its descriptors write, not for the register: what is missing may come later. */
  #serveQueue(): void {
    nowOrWhenPagesArrive(() => this.#processQueue())
  }

  /** Runs inside the write that moved the tail; at most one round, whatever the descriptors write. */
  #processQueue(): void {
    const s = this.#s
    if (!s.qi_enabled || this.#processing || this.#regs.get32(R.FSTS) & R.FSTS_IQE) return
    this.#processing = true
    try {
      for (let left = s.iq_size; left > 0 && s.iq_head !== s.iq_tail; left--) {
        if (s.iq_tail >= s.iq_size || !this.#processDescriptor()) {
          this.#queueError()
          return
        }
        s.iq_head = s.iq_head + 1 >= s.iq_size ? 0 : s.iq_head + 1
        this.#regs.set64(R.IQH, BigInt(s.iq_head) << 4n)
      }
    } finally {
      this.#processing = false
    }
  }

  #processDescriptor(): boolean {
    const s = this.#s
    const bytes = new Uint8Array(DESCRIPTOR_BYTES)
    if (!this.memory.read(s.iq + DESCRIPTOR_BYTES * s.iq_head, bytes)) return false
    const view = new DataView(bytes.buffer)
    const low = view.getBigUint64(0, true)
    s.iq_last_desc_type = Number(low & 0xfn)
    const descriptor = decodeDescriptor(low, view.getBigUint64(8, true))
    return descriptor !== undefined && this.#invalidate(descriptor)
  }

  #invalidate(descriptor: Invalidation): boolean {
    switch (descriptor.kind) {
      case 'context':
        this.#invalidateContexts(descriptor.scope)
        return true
      case 'iotlb':
        this.#invalidateIotlb(descriptor.scope)
        return true
      case 'nothing':
        return true
      case 'wait': {
        const { status, interrupt } = descriptor
        if (status && !this.#store32(status.address, status.data)) return false
        if (interrupt) this.#completionEvent()
        return true
      }
    }
  }

  #queueError(): void {
    const before = this.#regs.get32(R.FSTS)
    this.#log.guestError('intel-iommu: bad descriptor', { head: this.#s.iq_head, tail: this.#s.iq_tail })
    this.#regs.change32(R.FSTS, 0, R.FSTS_IQE)
    this.#faultEvent(before)
  }

  // ── events ──

  /** @param before FSTS as it was: while something is reported already, no new message is sent */
  #faultEvent(before: number): void {
    if (before & (R.FSTS_PPF | R.FSTS_PFO | R.FSTS_IQE)) return
    this.#regs.change32(R.FECTL, 0, R.EVENT_PENDING)
    this.#sendPending(R.FECTL, R.FEADDR, R.FEDATA)
  }

  #completionEvent(): void {
    if (this.#regs.get32(R.ICS) & R.ICS_IWC) return
    this.#regs.change32(R.ICS, 0, R.ICS_IWC)
    this.#regs.change32(R.IECTL, 0, R.EVENT_PENDING)
    this.#sendPending(R.IECTL, R.IEADDR, R.IEDATA)
  }

  /** Pending is cleared first: the message can be a write to our own registers, which then finds nothing to send. */
  #sendPending(control: number, address: number, data: number): void {
    const value = this.#regs.get32(control)
    if (value & R.EVENT_MASKED || !(value & R.EVENT_PENDING)) return
    this.#regs.change32(control, R.EVENT_PENDING, 0)
    const low = this.#regs.get32(address) >>> 0
    const high = this.#regs.get32(address + 4) >>> 0
    const message = this.#regs.get32(data)
    // Nothing may be there to receive it; then the guest polls.
    nowOrWhenPagesArrive(() => void this.#store32(high * 2 ** 32 + low, message))
  }

  #store32(address: number, value: number): boolean {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setInt32(0, value, true)
    return this.memory.write(address, bytes)
  }
}
