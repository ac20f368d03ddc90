/** The bytes of a 32-bit word in the other order; unsigned. */
export const swappedWord = (value: number): number =>
  ((value >>> 24) | ((value >>> 8) & 0xff00) | ((value << 8) & 0xff_0000) | (value << 24)) >>> 0
