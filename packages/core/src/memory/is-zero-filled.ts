/** Whether all bytes are zero. */
export function isZeroFilled(bytes: Uint8Array): boolean {
  if (bytes.byteOffset % 4 !== 0) return bytes.every((byte) => byte === 0)
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2)
  for (let i = 0; i < words.length; i++) if (words[i] !== 0) return false
  for (let i = words.length * 4; i < bytes.length; i++) if (bytes[i] !== 0) return false
  return true
}
