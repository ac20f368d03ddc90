import type { GuestMemory } from '@ferryvm/core'
import {
  ADD,
  brIf,
  get,
  i32,
  instantiateKernels,
  type Kernel,
  LT_U,
  loop,
  RETURN,
  set,
  tee,
  V128_ANY_TRUE,
  V128_OR,
  v128Load,
  when,
} from '../wasm/assembler.ts'

/** Tells whether 4096 bytes at a 16-byte aligned offset of guest memory are all zero. */
export type IsZeroPage = (offset: number) => boolean

/**
 * A SIMD kernel over the guest's own memory: 256 vector loads per page, without a copy. Measured (`kernels.bench.ts`)
 * against a loop over BigUint64Array; falls back to that where WebAssembly SIMD or shared memory is missing.
 */
export function createZeroPageTest(memory: GuestMemory): IsZeroPage {
  try {
    const { isZero } = instantiateKernels(memory.memory, { shared: true, maximumPages: 65536 }, { isZero: kernel() })
    return (offset) => isZero(offset) !== 0
  } catch {
    return (offset) => isZeroPageScalar(new BigUint64Array(memory.buffer, offset, 512))
  }
}

export function isZeroPageScalar(words: BigUint64Array): boolean {
  for (let i = 0; i < words.length; i++) if (words[i] !== 0n) return false
  return true
}

/** Looks at 128 bytes at a time and leaves at the first that are not all zero. */
function kernel(): Kernel {
  const page = 0
  const end = 1
  const any = [0, 16, 32, 48, 64, 80, 96, 112].flatMap((at) => [
    get(page),
    v128Load(at, 4),
    ...(at === 0 ? [] : [V128_OR]),
  ])
  return {
    parameters: 1,
    locals: 1,
    body: [
      ...[get(page), i32(4096), ADD, set(end)],
      loop(
        ...[any, V128_ANY_TRUE, when([i32(0), RETURN])],
        ...[get(page), i32(128), ADD, tee(page), get(end), LT_U, brIf(0)],
      ),
      i32(1),
    ],
  }
}
