import { bufferReader, drive } from '../qemufile/qemufile-reader.ts'
import { bufferWriter } from '../qemufile/qemufile-writer.ts'
import type { VmstateCodec } from './codec.ts'
import { compileVmstate } from './codec.ts'
import type { Vmstate } from './table.ts'

/** Both engines of a table, for tests that must hold for each. */
export const ENGINES = ['interpreted', 'auto'] as const
export type Engine = (typeof ENGINES)[number]

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
export const fromHex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replace(/\s+/g, ''), 'hex'))

export function saveWith<S>(codec: VmstateCodec<S>, state: S): Uint8Array {
  const out = bufferWriter()
  codec.save(state, out)
  return out.bytes()
}

export const save = <S>(vmstate: Vmstate<S>, state: S, engine: Engine): string =>
  hex(saveWith(compileVmstate(vmstate, { engine }), state))

/** Loads bytes that are all here. @returns bytes left over */
export function loadWith<S>(codec: VmstateCodec<S>, state: S, bytes: Uint8Array, version: number): number {
  const input = bufferReader(bytes)
  drive(input, codec.load(state, input, version))
  return input.available
}

export function load<S>(
  vmstate: Vmstate<S>,
  text: string,
  engine: Engine,
  state = vmstate.createState(),
  version = vmstate.version,
): S {
  const left = loadWith(compileVmstate(vmstate, { engine }), state, fromHex(text), version)
  if (left !== 0) throw new Error(`${left} bytes left over`)
  return state
}

/** Loads while the bytes come in pieces of `step`, as from a slow channel. */
export async function loadSlowly<S>(
  codec: VmstateCodec<S>,
  state: S,
  bytes: Uint8Array,
  version: number,
  step = 1,
): Promise<void> {
  const { createQEMUFileReader } = await import('../qemufile/qemufile-reader.ts')
  let at = 0
  const input = createQEMUFileReader({
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
  })
  await drive(input, codec.load(state, input, version))
}
