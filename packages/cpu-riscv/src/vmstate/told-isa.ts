import { type PhysicalMap, VmstateMismatchError } from '@ferryvm/core'
import type { HartProfile } from '../hart/profile.ts'

/** What a guest was told about its harts when it booted, and a way to see whether it made use of it. */
export interface ToldIsa {
  /** As in the device tree, `rv64imafdch_zicbom_…`. */
  readonly isa: string
  /** Guest-physical address of an instruction in RAM; every halfword is looked at. */
  find(instructions: readonly number[]): number | undefined
}

/**
 * Extensions whose instructions need no CSR bit, so that only the code itself shows their use. Exact encodings: a longer
 * list of looser patterns would find them in plain data.
 */
const INSTRUCTIONS: readonly (readonly [
  extension: string,
  names: string,
  encodings: readonly number[],
  has: (p: HartProfile) => boolean,
])[] = [['zawrs', 'wrs.nto or wrs.sto', [0x00d0_0073, 0x01d0_0073], (p) => p.zawrs]]

export function toldOf(map: PhysicalMap, isa: string | undefined): ToldIsa | undefined {
  return isa === undefined ? undefined : { isa, find: (encodings) => findInRam(map, encodings) }
}

/** Names in lower case; undefined when it is not known. */
export const extensionsOf = (told: ToldIsa | undefined): ReadonlySet<string> | undefined =>
  told && new Set(told.isa.toLowerCase().split('_'))

/**
 * @throws VmstateMismatchError the guest was told of an extension that this hart lacks, and its memory holds code that
 * uses it
 */
export function refuseTold(told: ToldIsa, profile: HartProfile): void {
  const extensions = extensionsOf(told)!
  for (const [extension, names, encodings, has] of INSTRUCTIONS) {
    if (has(profile) || !extensions.has(extension)) continue
    const at = told.find(encodings)
    if (at === undefined) continue
    throw new VmstateMismatchError(
      'env.misa_ext',
      `the guest was told of ${extension} and has code that uses it (${names} at 0x${at.toString(16)}); a ${profile.name} ` +
        `hart does not have it. Boot the guest without (-cpu rv64,${extension}=off on the source), or give this machine ` +
        'the profile of the source',
    )
  }
}

function findInRam(map: PhysicalMap, encodings: readonly number[]): number | undefined {
  for (const { base, block } of map.ramMappings()) {
    if (base < 0x8000_0000) continue // flash and boot ROM are the receiver's kind as well
    const halfwords = new Uint16Array(block.bytes.buffer, block.bytes.byteOffset, block.bytes.byteLength >> 1)
    // `indexOf` is native: this runs while the guest stands still, over all of its memory.
    for (const low of new Set(encodings.map((e) => e & 0xffff)))
      for (let i = halfwords.indexOf(low); i >= 0; i = halfwords.indexOf(low, i + 1)) {
        const word = (halfwords[i]! | ((halfwords[i + 1] ?? 0) << 16)) >>> 0
        if (encodings.includes(word)) return base + 2 * i
      }
  }
  return undefined
}
