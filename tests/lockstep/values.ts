/** Register contents: mostly values at which instructions change their mind. */
import type { Random } from './random.ts'

const INTEGER_CORNERS: readonly bigint[] = [
  0n,
  1n,
  2n,
  0x3fn,
  0x40n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  0x7fff_ffff_ffff_ffffn,
  0x8000_0000_0000_0000n,
  0xffff_ffff_8000_0000n,
  0xffff_ffff_7fff_ffffn,
  0xffff_ffff_ffff_ff80n,
  0xffff_ffff_ffff_fffen,
  0xffff_ffff_ffff_ffffn,
  0x0101_0101_0101_0101n,
  0x8080_8080_8080_8080n,
  0x0000_00ff_ff00_0000n,
  0xaaaa_aaaa_5555_5555n,
]

export function integerValue(random: Random): bigint {
  switch (random.below(8)) {
    case 0:
    case 1:
    case 2:
      return random.pick(INTEGER_CORNERS)
    case 3:
      return BigInt.asUintN(64, random.pick(INTEGER_CORNERS) + BigInt(random.below(7) - 3))
    case 4: // a run of ones somewhere
      return BigInt.asUintN(64, ((1n << BigInt(random.below(65))) - 1n) << BigInt(random.below(64)))
    case 5: // few significant bits, either sign
      return BigInt.asUintN(64, BigInt.asIntN(64, random.u64()) >> BigInt(random.below(64)))
    default:
      return random.u64()
  }
}

/** A bit pattern of a binary format: exponent and fraction each near something interesting. */
function floatPattern(random: Random, fractionBits: number, exponentBits: number): bigint {
  const top = 2 ** exponentBits - 1
  const bias = top >> 1
  const exponent = [
    () => 0,
    () => 1 + random.below(3),
    () => top - 1 - random.below(3),
    () => top,
    () => bias,
    () => bias - 4 + random.below(9),
    () => bias + random.below(70) - 4,
    () => bias - fractionBits - 3 + random.below(2 * fractionBits + 8),
    () => (bias >> 1) + random.below(6) - 3 + (random.chance(0.5) ? bias : 0),
    () => random.below(top + 1),
  ]
  const ones = (1n << BigInt(fractionBits)) - 1n
  const bit = (): bigint => 1n << BigInt(random.below(fractionBits))
  const fraction = [
    () => 0n,
    () => 0n,
    () => ones,
    bit,
    () => ones ^ bit(),
    () => bit() - 1n,
    () => random.u64() & ones,
    () => random.u64() & ones & ~(bit() - 1n),
  ]
  const sign = random.chance(0.4) ? 1n : 0n
  const field = BigInt(Math.max(0, random.pick(exponent)()))
  return (((sign << BigInt(exponentBits)) | field) << BigInt(fractionBits)) | random.pick(fraction)()
}

export const doublePattern = (random: Random): bigint => floatPattern(random, 52, 11)
export const singlePattern = (random: Random): bigint => floatPattern(random, 23, 8)

/**
 * An f register, by its place in the pool: 16 singles (NaN-boxed), then 16 doubles, now and then something else: a single
 * whose box is broken, the other format, the bits of an integer.
 * @param before what the register before it got: neighbours are often related, so that sums cancel
 */
export function floatValue(random: Random, place: number, before: bigint): bigint {
  const kind = random.below(40)
  if (kind === 0) return (BigInt(random.u32()) << 32n) | singlePattern(random)
  if (kind === 1) return integerValue(random)
  const single = ((place & 16) === 0) !== kind < 4
  if (kind > 34 && place % 16 !== 0) {
    const near =
      BigInt.asUintN(64, before + BigInt(random.below(5) - 2)) ^
      ((random.chance(0.5) ? 1n : 0n) << (single ? 31n : 63n))
    return single ? near | 0xffff_ffff_0000_0000n : near
  }
  return single ? 0xffff_ffff_0000_0000n | singlePattern(random) : doublePattern(random)
}
