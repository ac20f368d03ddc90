/**
 * The section of a virtio device: one opaque field named `virtio`, made of the transport's part, the core, the queues,
 * the device's own data and the subsections of `virtio`. Spec: virt-vmstate.md section 9 (parts A to E).
 */
import {
  bool,
  compileVmstate,
  custom,
  type DeviceContext,
  defineVmstate,
  type MigrationPriority,
  type QEMUFileReader,
  type QEMUFileWriter,
  u32Array,
  u64,
  u64Array,
  VIRTIO_QUEUE_MAX,
  VIRTQUEUE_MAX_SIZE,
  type Vmstate,
  type VmstateCodec,
  VmstateMismatchError,
  VmstateRangeError,
} from '@ferryvm/core'
import type { VirtioDevice } from './virtio-device.ts'

/** More configuration than any device has. */
const CONFIG_BYTES_MAX = 0x1000

/** Part E. Rows are copies: {@link takeSubsections} and {@link giveSubsections} are the way to and from the device. */
const virtioVmstate = defineVmstate({
  name: 'virtio',
  version: 1,
  fields: {},
  subsections: {
    'virtio/64bit_features': {
      fields: { guest_features: u64() },
      needed: (s) => s.device.current !== undefined && s.device.current.offeredFeatures >> 32n !== 0n,
    },
    'virtio/virtqueues': {
      fields: {
        /** avail, used; avail, used; ... */
        rings: u64Array(2 * VIRTIO_QUEUE_MAX),
      },
      needed: (s) => (s.device.current!.offeredFeatures & VERSION_1) !== 0n,
    },
    'virtio/ringsize': {
      fields: { num_default: u32Array(VIRTIO_QUEUE_MAX) },
      needed: (s) => s.device.current!.queues.some((q) => q.size !== q.defaultSize),
    },
    'virtio/broken': { fields: { broken: bool() }, needed: (s) => s.broken },
    'virtio/extra_state': {
      fields: {
        device: custom<{ current?: VirtioDevice }>({
          wire: 'virtio/extra_state',
          reset: () => ({}),
          put: (device, out) => device.current!.transport.state.extra!.save(out),
          *get(input, device) {
            const { extra } = device.current!.transport.state
            if (!extra) throw new VmstateMismatchError('', 'the sender has a modern transport and this one is legacy')
            yield* extra.load(input)
            return device
          },
        }),
      },
      needed: (s) => s.device.current!.transport.state.extra !== undefined,
    },
    'virtio/started': { fields: { started: bool() }, needed: (s) => s.started },
    'virtio/disabled': { fields: { disabled: bool() }, needed: (s) => s.disabled },
  },
})
const VERSION_1 = 1n << 32n
const codec = compileVmstate(virtioVmstate)

/**
 * Registers the device's section.
 * @param version of the device's vmstate; it is also the oldest that loads
 * @param priority for a device that others need when they are loaded
 */
export function registerVirtioSection(
  ctx: Pick<DeviceContext<unknown>, 'registerVmstate'>,
  device: VirtioDevice,
  version: number,
  priority?: MigrationPriority,
): void {
  let finish = () => {}
  const vmstate = defineVmstate({
    name: device.name,
    version,
    ...(priority !== undefined && { priority }),
    fields: {
      virtio: custom<VirtioDevice>({
        wire: 'virtio',
        reset: () => device,
        put: (d, out) => save(d, out),
        *get(input, d) {
          finish = yield* load(d, input)
          return d
        },
      }),
    },
    // Looks into the rings, which may lie behind an IOMMU: a loader can hold this back until that one is there.
    postLoad: () => finish(),
  })
  ctx.registerVmstate(vmstate, { virtio: device }, priority === undefined ? {} : { priority })
}

function save(device: VirtioDevice, out: QEMUFileWriter): void {
  const { state } = device.transport
  state.save(out)

  out.putByte(device.status)
  out.putByte(device.isr)
  out.putBe16(device.queueSelect)
  out.putBe32(Number(device.guestFeatures & 0xffff_ffffn))
  out.putBe32(device.configBytes)
  out.putBuffer(device.config)

  out.putBe32(device.queues.length)
  for (const queue of device.queues) {
    out.putBe32(queue.size)
    if (state.savesAlign) out.putBe32(queue.align)
    out.putBe64(queue.desc)
    out.putBe16(queue.lastAvailIdx)
    if (state.savesVector) out.putBe16(queue.vector)
  }
  const { state: own } = device.model
  if (own) tableCodec(own.table(layoutFacts(device, device.guestFeatures))).save(own.collect(), out)

  const subsections = virtioVmstate.createState()
  subsections.device = { current: device }
  subsections.guest_features = device.guestFeatures
  subsections.broken = device.broken
  subsections.started = device.started
  subsections.disabled = device.disabled
  for (const queue of device.queues) {
    subsections.rings[2 * queue.index] = queue.avail
    subsections.rings[2 * queue.index + 1] = queue.used
    subsections.num_default[queue.index] = queue.defaultSize
  }
  codec.save(subsections, out)
}

/** @returns what is left to do with the state: features and rings */
function* load(device: VirtioDevice, input: QEMUFileReader): Generator<number, () => void> {
  const { state } = device.transport
  yield* state.load(input, 1)

  yield 12
  device.status = input.getByte()
  device.isr = input.getByte()
  device.queueSelect = input.getBe16()
  if (device.queueSelect >= VIRTIO_QUEUE_MAX) {
    throw new VmstateRangeError('', `queue ${device.queueSelect} is selected; ${VIRTIO_QUEUE_MAX} is the limit`)
  }
  const featuresLow = BigInt(input.getBe32())
  const configBytes = input.getBe32()
  if (configBytes > CONFIG_BYTES_MAX) {
    throw new VmstateRangeError('', `${configBytes} bytes of device configuration; ${CONFIG_BYTES_MAX} is the limit`)
  }
  yield configBytes + 4
  const config = new Uint8Array(configBytes)
  input.getBuffer(config)
  device.config.fill(0)
  device.config.set(config.subarray(0, device.configBytes))

  const count = input.getBe32()
  if (count !== device.queues.length) {
    throw new VmstateMismatchError('', `the sender's device has ${count} queues, this one has ${device.queues.length}`)
  }
  for (const queue of device.queues) {
    yield 4 + (state.savesAlign ? 4 : 0) + 8 + 2 + (state.savesVector ? 2 : 0)
    const size = input.getBe32()
    if (size < 1 || size > VIRTQUEUE_MAX_SIZE) {
      throw new VmstateRangeError(
        '',
        `queue ${queue.index} has ${size} entries; 1 to ${VIRTQUEUE_MAX_SIZE} are possible`,
      )
    }
    queue.reset()
    queue.size = size
    if (state.savesAlign) queue.align = input.getBe32()
    queue.setRings(input.getBe64(), 0n, 0n)
    queue.lastAvailIdx = input.getBe16()
    if (state.savesVector) queue.vector = input.getBe16()
  }
  const { state: own } = device.model
  if (own) {
    const table = own.table(layoutFacts(device, featuresLow))
    const loaded = table.createState()
    yield* tableCodec(table).load(loaded, input, table.version)
    own.accept(loaded)
  }

  const subsections = virtioVmstate.createState()
  subsections.device = { current: device }
  subsections.guest_features = featuresLow
  for (const queue of device.queues) subsections.num_default[queue.index] = queue.defaultSize
  yield* codec.load(subsections, input, virtioVmstate.version)

  device.broken = subsections.broken
  device.started = subsections.started
  device.disabled = subsections.disabled
  const hasRings = subsections.rings.some((address) => address !== 0n)
  for (const queue of device.queues) {
    const size = subsections.num_default[queue.index]!
    if (size < 1 || size > VIRTQUEUE_MAX_SIZE) {
      throw new VmstateRangeError('', `queue ${queue.index} has a default of ${size} entries`)
    }
    queue.defaultSize = size
    queue.setRings(queue.desc, subsections.rings[2 * queue.index]!, subsections.rings[2 * queue.index + 1]!)
  }
  return () => device.finishLoad(subsections.guest_features, hasRings)
}

const layoutFacts = (device: VirtioDevice, features: bigint) => ({
  queues: device.queues.length,
  guestFeatures: Number(features & 0xffff_ffffn),
})

const codecs = new WeakMap<Vmstate<any>, VmstateCodec<any>>()

function tableCodec(vmstate: Vmstate<any>): VmstateCodec<any> {
  let known = codecs.get(vmstate)
  if (!known) codecs.set(vmstate, (known = compileVmstate(vmstate)))
  return known
}
