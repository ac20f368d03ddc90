/**
 * Just enough of the WebAssembly binary format to write a kernel of a few dozen instructions by hand: a page that forbids
 * eval still allows WebAssembly, and nothing has to be built. Instructions are nested lists of bytes, in stack order.
 */
export type Code = readonly (number | Code)[]

/** Unsigned LEB128. */
export function uleb(n: number): number[] {
  const bytes: number[] = []
  for (; n > 0x7f; n >>>= 7) bytes.push((n & 0x7f) | 0x80)
  return [...bytes, n]
}

function sleb(n: number): number[] {
  const bytes: number[] = []
  for (; n < -64 || n > 63; n >>= 7) bytes.push((n & 0x7f) | 0x80)
  return [...bytes, n & 0x7f]
}

const VOID = 0x40
const I32 = 0x7f

export const get = (local: number): Code => [0x20, local]
export const set = (local: number): Code => [0x21, local]
export const tee = (local: number): Code => [0x22, local]
export const i32 = (n: number): Code => [0x41, ...sleb(n)]
export const block = (...code: Code): Code => [0x02, VOID, code, 0x0b]
export const loop = (...code: Code): Code => [0x03, VOID, code, 0x0b]
/** Takes the condition from the stack. */
export const when = (then: Code, otherwise: Code = []): Code => [
  ...[0x04, VOID, then],
  ...(otherwise.length > 0 ? [0x05, otherwise] : []),
  0x0b,
]
/** To the end of the n-th enclosing block, or to the beginning of the loop; 0 is the innermost. */
export const br = (depth: number): Code => [0x0c, depth]
export const brIf = (depth: number): Code => [0x0d, depth]
export const RETURN: Code = [0x0f]
export const EQZ: Code = [0x45]
export const EQ: Code = [0x46]
export const LT_U: Code = [0x49]
export const GT_U: Code = [0x4b]
export const GE_U: Code = [0x4f]
export const CTZ: Code = [0x68]
export const ADD: Code = [0x6a]
export const SUB: Code = [0x6b]
export const AND: Code = [0x71]
export const OR: Code = [0x72]
export const XOR: Code = [0x73]
export const SHL: Code = [0x74]
export const SHR_U: Code = [0x76]
export const load8 = (offset = 0): Code => [0x2d, 0, ...uleb(offset)]
export const store8 = (offset = 0): Code => [0x3a, 0, ...uleb(offset)]
/** dst, src, length. */
export const MEMORY_COPY: Code = [0xfc, 0x0a, 0, 0]
/** @param align log2 of the alignment that the address has for certain */
export const v128Load = (offset = 0, align = 0): Code => [0xfd, 0x00, align, ...uleb(offset)]
export const v128Store = (offset = 0, align = 0): Code => [0xfd, 0x0b, align, ...uleb(offset)]
export const V128_OR: Code = [0xfd, 0x50]
export const V128_XOR: Code = [0xfd, 0x51]
export const V128_ANY_TRUE: Code = [0xfd, 0x53]
export const I8X16_EQ: Code = [0xfd, 0x23]
export const I8X16_BITMASK: Code = [0xfd, 0x64]

export interface Kernel {
  /** Parameters and further locals, all i32; the result is an i32. */
  readonly parameters: number
  readonly locals: number
  readonly body: Code
}

/**
 * Compiles functions over an imported memory.
 * @throws WebAssembly.CompileError the host has no SIMD; or LinkError, no shared memory
 */
export function instantiateKernels<K extends string>(
  memory: WebAssembly.Memory,
  limits: { readonly shared: boolean; readonly maximumPages: number },
  kernels: Readonly<Record<K, Kernel>>,
): Readonly<Record<K, (...args: number[]) => number>> {
  const list = Object.entries<Kernel>(kernels)
  const section = (id: number, items: readonly Code[]) => {
    const bytes = [...uleb(items.length), ...flat(items)]
    return [id, ...uleb(bytes.length), ...bytes]
  }
  const name = (text: string) => [text.length, ...new TextEncoder().encode(text)]
  const bytes = [
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(
      1,
      list.map(([, { parameters }]) => [0x60, parameters, ...Array(parameters).fill(I32), 1, I32]),
    ),
    ...section(2, [[name('m'), name('m'), 2, limits.shared ? 3 : 1, 1, uleb(limits.maximumPages)]]),
    ...section(
      3,
      list.map((_, i) => uleb(i)),
    ),
    ...section(
      7,
      list.map(([id], i) => [name(id), 0, uleb(i)]),
    ),
    ...section(
      10,
      list.map(([, { locals, body }]) => {
        const code = [...(locals > 0 ? [1, ...uleb(locals), I32] : [0]), ...flat(body), 0x0b]
        return [...uleb(code.length), ...code]
      }),
    ),
  ]
  const instance = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(bytes)), { m: { m: memory } })
  return instance.exports as Record<K, (...args: number[]) => number>
}

const flat = (code: Code): number[] => code.flatMap((part) => (typeof part === 'number' ? part : flat(part)))
