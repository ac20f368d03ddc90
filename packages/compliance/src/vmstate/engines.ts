import {
  bufferReader,
  bufferWriter,
  type Channel,
  compileVmstate,
  createQEMUFileReader,
  drive,
  emitVmstateModule,
  type Vmstate,
  type VmstateCodec,
} from '@ferryvm/core'

/** Every way to run a table here. The emitted module is imported from a data: URL, where the host can do that. */
export async function codecsOf<S>(vmstate: Vmstate<S>): Promise<VmstateCodec<S>[]> {
  const codecs = [compileVmstate(vmstate, { engine: 'interpreted' })]
  const fast = compileVmstate(vmstate)
  if (fast.engine !== 'interpreted') codecs.push(fast)
  try {
    const url = `data:text/javascript,${encodeURIComponent(emitVmstateModule(vmstate))}`
    codecs.push(compileVmstate(vmstate, { module: await import(/* @vite-ignore */ url) }))
  } catch {
    // No data: modules on this host: the generated engine runs the same source.
  }
  return codecs
}

export function saveBytes<S>(codec: VmstateCodec<S>, state: S): Uint8Array {
  const out = bufferWriter()
  codec.save(state, out)
  return out.bytes()
}

/** @returns bytes left over */
export function loadBytes<S>(codec: VmstateCodec<S>, state: S, bytes: Uint8Array, version: number): number {
  const input = bufferReader(bytes)
  drive(input, codec.load(state, input, version))
  return input.available
}

/** Loads from a channel that delivers `step` bytes at a time and then ends. */
export async function loadSlowly<S>(
  codec: VmstateCodec<S>,
  state: S,
  bytes: Uint8Array,
  version: number,
  step: number,
) {
  let at = 0
  const channel: Channel = {
    features: new Set(),
    async read(into) {
      const part = bytes.subarray(at, at + Math.min(step, into.length))
      into.set(part)
      at += part.length
      return part.length
    },
    write() {},
    async shutdown() {},
    async close() {},
  }
  const input = createQEMUFileReader(channel)
  await drive(input, codec.load(state, input, version))
}
