import { type Channel, type DiskSnapshots, UnsupportedFeatureError } from '@ferryvm/core'

/** What goes to the image at once: whole clusters, whatever their size. */
const CHUNK_BYTES = 2 << 20

const oneWay = (): Promise<never> => Promise.reject(new UnsupportedFeatureError('shutdown', 'a snapshot'))

/** A stream into the place that an image has for VM state. `finish` writes the rest. */
export function vmStateWriter(image: DiskSnapshots): Channel & { readonly bytes: number } {
  const chunk = new Uint8Array(CHUNK_BYTES)
  let filled = 0
  let written = 0
  const put = async () => {
    if (filled === 0) return
    await image.writeVmState(written, chunk.subarray(0, filled))
    written += filled
    filled = 0
  }
  return {
    features: new Set(),
    get bytes() {
      return written + filled
    },
    read: oneWay,
    async write(buffers) {
      for (const buffer of buffers) {
        for (let done = 0; done < buffer.length; ) {
          const part = buffer.subarray(done, done + CHUNK_BYTES - filled)
          chunk.set(part, filled)
          filled += part.length
          done += part.length
          if (filled === CHUNK_BYTES) await put()
        }
      }
    },
    finish: put,
    shutdown: oneWay,
    async close() {},
  }
}

/** The stream of a snapshot. */
export async function vmStateReader(image: DiskSnapshots, id: string, bytes: number): Promise<Channel> {
  const readAt = await image.openVmState(id)
  let position = 0
  return {
    features: new Set(),
    async read(into) {
      const part = into.subarray(0, Math.min(into.length, bytes - position))
      if (part.length > 0) await readAt(position, part)
      position += part.length
      return part.length
    },
    write: oneWay,
    shutdown: oneWay,
    async close() {},
  }
}
