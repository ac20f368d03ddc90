/** Of this host alone: 127.0.0.0/8, ::1, and the former written as IPv6. */
export function isLoopback(address: string): boolean {
  const plain = address.toLowerCase().replace(/^::ffff:(?=\d+\.)/, '')
  return plain === '::1' || /^127(\.\d{1,3}){3}$/.test(plain)
}
