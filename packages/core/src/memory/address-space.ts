/**
 * Memory as somebody sees it: a device doing DMA, or the physical map itself. Addresses stay below 2^53. While pages of guest
 * memory have yet to arrive, every access may throw PageMissingError, and has then changed nothing.
 */
export interface AddressSpace {
  /** @returns false when any byte could not be read (nothing there, or a translation fault); `into` is then undefined */
  read(address: number, into: Uint8Array): boolean
  /** @returns false when any byte could not be written; an unknown prefix may have been */
  write(address: number, from: Uint8Array): boolean
  /**
   * Throws PageMissingError where an access would. A device calls it before it begins something that cannot be begun anew;
   * what was there once stays there. Silent about addresses where nothing is. Absent: no page is ever missing.
   */
  demand?(address: number, bytes: number, write: boolean): void
}

const scratch = new DataView(new ArrayBuffer(8))
const bytes = [1, 2, 4, 8].map((n) => new Uint8Array(scratch.buffer, 0, n))

/** Little-endian loads and stores over an {@link AddressSpace}. A failed load is `undefined`, never a made-up zero. */
export const dma = {
  load8: (space: AddressSpace, address: number) => (space.read(address, bytes[0]!) ? scratch.getUint8(0) : undefined),
  load16: (space: AddressSpace, address: number) =>
    space.read(address, bytes[1]!) ? scratch.getUint16(0, true) : undefined,
  load32: (space: AddressSpace, address: number) =>
    space.read(address, bytes[2]!) ? scratch.getUint32(0, true) : undefined,
  load64: (space: AddressSpace, address: number) =>
    space.read(address, bytes[3]!) ? scratch.getBigUint64(0, true) : undefined,
  store8(space: AddressSpace, address: number, value: number): boolean {
    scratch.setUint8(0, value)
    return space.write(address, bytes[0]!)
  },
  store16(space: AddressSpace, address: number, value: number): boolean {
    scratch.setUint16(0, value, true)
    return space.write(address, bytes[1]!)
  },
  store32(space: AddressSpace, address: number, value: number): boolean {
    scratch.setUint32(0, value, true)
    return space.write(address, bytes[2]!)
  },
  store64(space: AddressSpace, address: number, value: bigint): boolean {
    scratch.setBigUint64(0, value, true)
    return space.write(address, bytes[3]!)
  },
}
