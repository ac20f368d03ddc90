import { PAGE_BYTES } from '@ferryvm/core'
import {
  ADD,
  AND,
  block,
  br,
  brIf,
  type Code,
  CTZ,
  EQ,
  EQZ,
  GE_U,
  GT_U,
  get,
  I8X16_BITMASK,
  I8X16_EQ,
  i32,
  type Kernel,
  LT_U,
  loop,
  OR,
  RETURN,
  SHR_U,
  SUB,
  set,
  store8,
  tee,
  V128_ANY_TRUE,
  V128_OR,
  V128_XOR,
  v128Load,
  v128Store,
  when,
  XOR,
} from '../../wasm/assembler.ts'

/** Result of an encoding that would not fit into a page. */
export const XBZRLE_OVERFLOW = -1

/**
 * What turns page `before` into page `after`: (number of equal bytes, number of different bytes, these bytes) again and again,
 * numbers as ULEB128, without what is equal at the end. Spec: ram.md section 4.
 * @returns bytes written to `out`; 0: the pages are equal; {@link XBZRLE_OVERFLOW}: not worth it
 */
export function xbzrleEncode(before: Uint8Array, after: Uint8Array, out: Uint8Array): number {
  let written = 0
  const put = (n: number): boolean => {
    if (written + 2 > PAGE_BYTES) return false
    if (n > 0x7f) out[written++] = (n & 0x7f) | 0x80
    out[written++] = n > 0x7f ? n >>> 7 : n
    return true
  }
  for (let at = 0; ; ) {
    const equal = at
    while (at < PAGE_BYTES && before[at] === after[at]) at++
    if (at === PAGE_BYTES) return written
    if (!put(at - equal)) return XBZRLE_OVERFLOW
    const different = at
    while (at < PAGE_BYTES && before[at] !== after[at]) at++
    if (!put(at - different) || written + at - different > PAGE_BYTES) return XBZRLE_OVERFLOW
    out.set(after.subarray(different, at), written)
    written += at - different
  }
}

/** Bytes behind each of the kernel's three pages that it may read or, behind the output, write. */
export const XBZRLE_SLACK_BYTES = 64

/**
 * {@link xbzrleEncode} for a memory: `before`, `after` and `out` are addresses with {@link XBZRLE_SLACK_BYTES} behind them.
 * 16 bytes are compared at a time, and 64 where a run of equal bytes is long.
 */
export function xbzrleEncodeKernel(): Kernel {
  const [before, after, out, at, begin, end, write, mask, run] = [0, 1, 2, 3, 4, 5, 6, 7, 8]
  const here = (page: number): Code => [get(page!), get(at!), ADD]
  const equalMask: Code = [here(before!), v128Load(), here(after!), v128Load(), I8X16_EQ, I8X16_BITMASK]
  const advance = (n: Code): Code => [get(at!), n, ADD, set(at!)]
  /** What was compared beyond the end does not count. */
  const clamp: Code = [get(at!), i32(PAGE_BYTES), GT_U, when([i32(PAGE_BYTES), set(at!)])]
  const overflow: Code = [i32(XBZRLE_OVERFLOW), RETURN]
  /** Length of the run that ends at `at`, as ULEB128. */
  const putRun: Code = [
    ...[get(write!), i32(2), ADD, get(end!), GT_U, when(overflow)],
    ...[get(at!), get(begin!), SUB, tee(run!), i32(128), LT_U],
    when(
      [get(write!), get(run!), store8(), get(write!), i32(1), ADD, set(write!)],
      [
        ...[get(write!), get(run!), i32(127), AND, i32(128), OR, store8()],
        ...[get(write!), get(run!), i32(7), SHR_U, store8(1), get(write!), i32(2), ADD, set(write!)],
      ],
    ),
  ]
  const different64: Code = [0, 16, 32, 48].flatMap((offset) => [
    ...[here(before!), v128Load(offset), here(after!), v128Load(offset), V128_XOR],
    ...(offset === 0 ? [] : [V128_OR]),
  ])
  return {
    parameters: 3,
    locals: 6,
    body: [
      ...[get(out!), set(write!), get(out!), i32(PAGE_BYTES), ADD, set(end!)],
      loop(
        // Equal bytes.
        ...[get(at!), set(begin!)],
        block(
          loop(
            ...[get(at!), i32(PAGE_BYTES), GE_U, brIf(1)],
            ...[equalMask, i32(0xffff), XOR, tee(mask!), EQZ],
            when(
              [
                advance(i32(16)),
                block(
                  loop(
                    ...[get(at!), i32(PAGE_BYTES - 64), GT_U, brIf(1)],
                    ...[different64, V128_ANY_TRUE, brIf(1)],
                    ...[advance(i32(64)), br(0)],
                  ),
                ),
                br(1),
              ],
              [advance([get(mask!), CTZ])],
            ),
          ),
        ),
        clamp,
        ...[get(at!), i32(PAGE_BYTES), EQ, when([get(write!), get(out!), SUB, RETURN])],
        putRun,
        // Different bytes.
        ...[get(at!), set(begin!)],
        block(
          loop(
            ...[get(at!), i32(PAGE_BYTES), GE_U, brIf(1)],
            ...[equalMask, tee(mask!), EQZ],
            when([advance(i32(16)), br(1)], [advance([get(mask!), CTZ])]),
          ),
        ),
        clamp,
        putRun,
        ...[get(write!), get(run!), ADD, get(end!), GT_U, when(overflow)],
        // Copied 16 bytes at a time; what is too much is written over next, or lies in the slack.
        ...[get(after!), get(begin!), ADD, set(mask!), get(write!), set(begin!)],
        ...[get(write!), get(run!), ADD, set(write!)],
        loop(
          ...[get(begin!), get(mask!), v128Load(), v128Store()],
          ...[get(mask!), i32(16), ADD, set(mask!)],
          ...[get(begin!), i32(16), ADD, tee(begin!), get(write!), LT_U, brIf(0)],
        ),
        br(0),
      ),
      i32(0),
    ],
  }
}
