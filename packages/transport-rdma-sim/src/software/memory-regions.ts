import { VerbsResourceError } from '../verbs/errors.ts'
import type { MemoryAccess, MemoryRegion, ProtectionDomain, ScatterGather } from '../verbs/verbs.ts'

/** Room between two buffers, so that an address past the end of one is never inside of another. */
const SPACING = 2n ** 33n

/** Gives bytes their addresses: one device, one address space. */
export class AddressSpace {
  readonly #bases = new WeakMap<ArrayBufferLike, bigint>()
  /** Differs from device to device, so that an address of the wrong side is an error and not luck. */
  #next = 0x1000_0000_0000n + BigInt(Math.floor(Math.random() * 0x400)) * 2n ** 36n

  addressOf(bytes: Uint8Array): bigint {
    let base = this.#bases.get(bytes.buffer)
    if (base === undefined) {
      base = this.#next
      this.#next += SPACING
      this.#bases.set(bytes.buffer, base)
    }
    return base + BigInt(bytes.byteOffset)
  }
}

interface Region extends MemoryRegion {
  readonly bytes: Uint8Array
}

export class SoftwareProtectionDomain implements ProtectionDomain {
  readonly #addresses: AddressSpace
  /** Shared by all domains of a device. */
  readonly #budget: { regions: number }
  readonly #local = new Map<number, Region>()
  readonly #remote = new Map<number, Region>()

  constructor(addresses: AddressSpace, budget: { regions: number }) {
    this.#addresses = addresses
    this.#budget = budget
  }

  registerMemory(bytes: Uint8Array, access: MemoryAccess): MemoryRegion {
    if (this.#budget.regions === 0) throw new VerbsResourceError('the device holds no more memory regions')
    if (access.remoteWrite && !access.localWrite)
      throw new VerbsResourceError('remoteWrite asks for localWrite as well')
    this.#budget.regions--
    const region: Region = {
      bytes,
      address: this.#addresses.addressOf(bytes),
      length: bytes.length,
      lkey: unusedKey(this.#local),
      rkey: unusedKey(this.#remote),
      access,
      deregister: () => {
        if (this.#local.delete(region.lkey)) this.#budget.regions++
        this.#remote.delete(region.rkey)
      },
    }
    this.#local.set(region.lkey, region)
    this.#remote.set(region.rkey, region)
    return region
  }

  deallocate(): void {
    for (const region of [...this.#local.values()]) region.deregister()
  }

  /** @returns undefined: a key does not cover its range, or does not allow writing where `write` asks for it */
  local(list: readonly ScatterGather[], write: boolean): Uint8Array[] | undefined {
    const views: Uint8Array[] = []
    for (const { address, length, lkey } of list) {
      const region = this.#local.get(lkey)
      const view = region && (!write || region.access.localWrite) ? viewOf(region, address, length) : undefined
      if (!view) return undefined
      views.push(view)
    }
    return views
  }

  /** What a peer may write with that key; undefined: it may not. */
  remote(rkey: number, address: bigint, length: number): Uint8Array | undefined {
    const region = this.#remote.get(rkey)
    return region?.access.remoteWrite ? viewOf(region, address, length) : undefined
  }
}

function viewOf(region: Region, address: bigint, length: number): Uint8Array | undefined {
  const at = address - region.address
  if (at < 0n || at + BigInt(length) > BigInt(region.length)) return undefined
  return region.bytes.subarray(Number(at), Number(at) + length)
}

function unusedKey(taken: ReadonlyMap<number, unknown>): number {
  const word = new Uint32Array(1)
  do crypto.getRandomValues(word)
  while (word[0] === 0 || taken.has(word[0]!))
  return word[0]!
}
