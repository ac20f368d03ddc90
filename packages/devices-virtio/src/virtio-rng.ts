/** virtio entropy source. Spec: virtio 1.2, section 5.4. */
import { defineDevice, registersItself, type StandardSchema } from '@ferryvm/core'
import { VirtioDevice, type VirtioModel } from './virtio-device.ts'
import { registerVirtioSection } from './virtio-section.ts'
import { scatter, segmentBytes, type Virtqueue } from './virtqueue.ts'

const DEVICE_ID = 4
const QUEUE_SIZE = 8
/** What crypto.getRandomValues gives at once. */
const MAX_BYTES = 65536

export interface VirtioRngOptions {
  /** For tests: the same seed gives the same bytes. Default: the host's entropy. Not migrated. */
  readonly seed?: number
}

export const virtioRng = defineDevice({
  type: 'virtio-rng',
  props: rngOptions(),
  bus: 'virtio',
  migration: registersItself,
  realize(ctx, { seed }) {
    const fill =
      seed === undefined ? (into: Uint8Array<ArrayBuffer>) => void crypto.getRandomValues(into) : seeded(seed)
    const model: VirtioModel = {
      name: 'virtio-rng',
      deviceId: DEVICE_ID,
      queueSizes: [QUEUE_SIZE],
      features: 0n,
      configBytes: 0,
      process: (queue) => serve(queue),
    }
    const device = new VirtioDevice(ctx, model)
    let later: ReturnType<typeof setTimeout> | undefined

    function serve(queue: Virtqueue): void {
      for (let n = 0; n < queue.size; n++) {
        const element = queue.pop()
        if (!element) return
        const bytes = new Uint8Array(Math.min(segmentBytes(element.in), MAX_BYTES))
        fill(bytes)
        if (!scatter(device.dma, element.in, 0, bytes)) {
          device.fail(`queue ${queue.index}: the buffer of request ${element.index} cannot be written`)
          return
        }
        queue.push(element, bytes.length)
      }
      // A guest that refills as fast as we answer must not keep the device thread to itself.
      clearTimeout(later)
      later = setTimeout(() => device.process(queue.index), 0)
    }

    registerVirtioSection(ctx, device, 1)
    return {
      reset: () => device.reset(),
      resume: () => device.resume(),
      quiesce: async () => device.quiesce(),
      unrealize: () => {
        device.quiesce()
        clearTimeout(later)
      },
    }
  },
})

/** xorshift32: enough to be recognized in a test, and nothing else. */
function seeded(seed: number): (into: Uint8Array) => void {
  let x = seed | 0 || 1
  return (into) => {
    for (let i = 0; i < into.length; i++) {
      x ^= x << 13
      x ^= x >>> 17
      x ^= x << 5
      into[i] = x
    }
  }
}

function rngOptions(): StandardSchema<VirtioRngOptions, VirtioRngOptions> {
  return {
    '~standard': {
      version: 1,
      vendor: 'ferryvm',
      validate(value) {
        const { seed, ...rest } = (value ?? {}) as Record<string, unknown>
        const unknown = Object.keys(rest)[0]
        if (unknown) return { issues: [{ message: 'is not an option of virtio-rng', path: [unknown] }] }
        const number = seed === undefined ? undefined : Number(seed)
        if (number !== undefined && !Number.isInteger(number)) {
          return { issues: [{ message: 'must be a whole number', path: ['seed'] }] }
        }
        return { value: { seed: number } }
      },
    },
  }
}
