/**
 * What is inside of the one opaque field `virtio` that a description has for a virtio device.
 * Spec: virt-vmstate.md section 9, parts A to E.
 */
import type { FieldDescription, VmstateDescription } from '@ferryvm/core'

/** Queues a device can have. */
const QUEUE_MAX = 1024
const MARK = new TextEncoder().encode('virtio/')
const CAPABILITY_MSIX = 0x11

const one = (name: string, type: string, size: number): FieldDescription => ({ name, type, size })
const many = (name: string, type: string, size: number, count: number): FieldDescription => ({
  name,
  array_len: count,
  type,
  size,
})
const structs = (name: string, count: number, fields: FieldDescription[]): FieldDescription => ({
  name,
  array_len: count,
  type: 'struct',
  struct: { vmsd_name: name, version: 1, fields },
  size: sizeOf(fields),
})
const sizeOf = (fields: readonly FieldDescription[]): number =>
  fields.reduce((sum, f) => sum + f.size * (f.array_len ?? 1), 0)

const queueAddresses = [many('desc', 'uint32', 4, 2), many('avail', 'uint32', 4, 2), many('used', 'uint32', 4, 2)]
const SUBSECTIONS: Readonly<Record<string, readonly FieldDescription[]>> = {
  'virtio/device_endian': [one('device_endian', 'uint8', 1)],
  'virtio/64bit_features': [one('guest_features', 'uint64', 8)],
  'virtio/virtqueues': [structs('vq', QUEUE_MAX, [one('avail', 'uint64', 8), one('used', 'uint64', 8)])],
  'virtio/ringsize': [many('num_default', 'uint32', 4, QUEUE_MAX)],
  'virtio/broken': [one('broken', 'bool', 1)],
  'virtio/extra_state': [],
  'virtio/started': [one('started', 'bool', 1)],
  'virtio/disabled': [one('disabled', 'bool', 1)],
  'virtio/packed_virtqueues': [
    structs('vq', QUEUE_MAX, [
      one('last_avail_idx', 'uint16', 2),
      one('last_avail_wrap_counter', 'bool', 1),
      one('used_idx', 'uint16', 2),
      one('used_wrap_counter', 'bool', 1),
      one('inuse', 'uint32', 4),
    ]),
  ],
  'virtio_pci/modern_state': [
    one('dfselect', 'uint32', 4),
    one('gfselect', 'uint32', 4),
    many('guest_features', 'uint32', 4, 2),
    structs('vqs', QUEUE_MAX, [
      one('num', 'uint16', 2),
      one('unused', 'unused_buffer', 1),
      one('enabled', 'bool', 1),
      ...queueAddresses,
    ]),
  ],
  'virtio_mmio/state': [
    many('guest_features', 'uint32', 4, 2),
    structs('vqs', QUEUE_MAX, [one('num', 'uint16', 2), one('enabled', 'bool', 1), ...queueAddresses]),
  ],
}

/** What the layout of a device's own data depends on. */
export interface VirtioLayoutFacts {
  readonly queues: number
  /** Bits 0 to 31 of what the driver accepted. */
  readonly guestFeatures: number
}
/** How a device's own data is laid out, if that is known and it fills the bytes. */
export type VirtioDataLayout = (bytes: Uint8Array, facts: VirtioLayoutFacts) => VmstateDescription | undefined

/**
 * @param dataLayout default: a device's own data is a buffer
 * @returns undefined: the bytes are not laid out as any transport we know does it
 */
export function virtioLayout(bytes: Uint8Array, dataLayout?: VirtioDataLayout): VmstateDescription | undefined {
  const pci = bytes.length > 300 && bytes[4] === 0xf4 && bytes[5] === 0x1a
  // A PCI Express function has the larger configuration space; nothing but what follows tells which it is.
  for (const configBytes of pci ? [256, 4096] : [0]) {
    const layout = new Layout(bytes, dataLayout).read(configBytes)
    if (layout) return layout
  }
  return undefined
}

class Layout {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #dataLayout: VirtioDataLayout | undefined
  readonly #fields: FieldDescription[] = []
  #at = 0

  constructor(bytes: Uint8Array, dataLayout: VirtioDataLayout | undefined) {
    this.#bytes = bytes
    this.#dataLayout = dataLayout
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  read(configBytes: number): VmstateDescription | undefined {
    const add = (field: FieldDescription): number => {
      const at = this.#at
      this.#fields.push(field)
      this.#at += field.size * (field.array_len ?? 1)
      return at
    }
    const u32At = (at: number): number => (at + 4 <= this.#bytes.length ? this.#view.getUint32(at) : Number.NaN)
    let vectors = 0
    if (configBytes > 0) {
      const pci = [
        one('version_id', 'int32', 4),
        one('config', 'pci config', configBytes),
        many('irq_state', 'uint32', 4, 4),
      ]
      add({
        name: 'pci',
        type: 'struct',
        struct: { vmsd_name: 'PCIDevice', version: 2, fields: pci },
        size: sizeOf(pci),
      })
      vectors = this.#msixVectors(configBytes)
      if (vectors > 0) {
        add(one('msix_table', 'buffer', 16 * vectors))
        add(one('msix_pba', 'buffer', Math.ceil(vectors / 8)))
        add(one('config_vector', 'uint16', 2))
      }
    } else
      for (const name of ['host_features_sel', 'guest_features_sel', 'guest_page_shift']) add(one(name, 'uint32', 4))

    add(one('status', 'uint8', 1))
    add(one('isr', 'uint8', 1))
    add(one('queue_sel', 'uint16', 2))
    const guestFeatures = u32At(add(one('guest_features_low', 'uint32', 4)))
    const configLength = u32At(add(one('config_len', 'uint32', 4)))
    if (!(configLength <= 4096)) return undefined
    add(one('config', 'buffer', configLength))
    const queues = u32At(add(one('queue_count', 'uint32', 4)))
    if (!(queues <= QUEUE_MAX)) return undefined
    const queue = [
      one('num', 'uint32', 4),
      ...(configBytes === 0 ? [one('align', 'uint32', 4)] : []),
      one('desc', 'uint64', 8),
      one('last_avail_idx', 'uint16', 2),
      ...(vectors > 0 ? [one('vector', 'uint16', 2)] : []),
    ]
    if (queues > 0) add(structs('queue', queues, queue))

    const end = this.#firstSubsection()
    if (end < this.#at) return undefined
    if (end > this.#at) {
      const size = end - this.#at
      const struct = this.#dataLayout?.(this.#bytes.subarray(this.#at, end), { queues, guestFeatures })
      add(struct ? { name: 'device', type: 'struct', struct, size } : one('device', 'buffer', size))
    }
    const subsections = this.#subsections('virtio/')
    if (!subsections || this.#at !== this.#bytes.length) return undefined
    return { vmsd_name: 'virtio', version: 1, fields: this.#fields, subsections }
  }

  /** From the MSI-X capability in the PCI configuration that was just passed; 0: there is none. */
  #msixVectors(configBytes: number): number {
    const config = this.#bytes.subarray(4, 4 + Math.min(configBytes, 256))
    let at = config[0x34]!
    for (let steps = 0; at >= 0x40 && at < 0xfe && steps < 48; steps++) {
      if (config[at] === CAPABILITY_MSIX) return ((config[at + 2]! | (config[at + 3]! << 8)) & 0x7ff) + 1
      at = config[at + 1]!
    }
    return 0
  }

  /** Where the device's own data ends: what it is made of differs from device to device. */
  #firstSubsection(): number {
    for (let at = this.#bytes.indexOf(5, this.#at); at >= 0; at = this.#bytes.indexOf(5, at + 1))
      if (MARK.every((byte, i) => this.#bytes[at + 2 + i] === byte)) return at
    return this.#bytes.length
  }

  #subsections(prefix: string): VmstateDescription[] | undefined {
    const found: VmstateDescription[] = []
    while (this.#at < this.#bytes.length && this.#bytes[this.#at] === 5) {
      const length = this.#bytes[this.#at + 1] ?? 0
      const name = String.fromCharCode(...this.#bytes.subarray(this.#at + 2, this.#at + 2 + length))
      if (!name.startsWith(prefix)) break
      const fields = SUBSECTIONS[name]
      if (!fields || this.#at + 6 + length > this.#bytes.length) return undefined
      const version = this.#view.getUint32(this.#at + 2 + length)
      this.#at += 6 + length + sizeOf(fields)
      if (this.#at > this.#bytes.length) return undefined
      const nested = name === 'virtio/extra_state' ? this.#subsections('virtio_') : []
      if (!nested) return undefined
      found.push({ vmsd_name: name, version, fields, ...(nested.length > 0 && { subsections: nested }) })
    }
    return found
  }
}
