import { describe, expect, it } from 'vitest'
import { familyOf, formatAddress, parseTcpAddress, parseUnixAddress } from './address.ts'

describe('tcp addresses (protocol.md section 7)', () => {
  it.each([
    ['localhost:4444', { kind: 'tcp', host: 'localhost', port: 4444 }],
    ['[::1]:4444', { kind: 'tcp', host: '::1', port: 4444 }],
    [':4444', { kind: 'tcp', host: '', port: 4444 }],
    ['0.0.0.0:0', { kind: 'tcp', host: '0.0.0.0', port: 0 }],
    [
      'h:1,to=9,ipv4,ipv6=off,keep-alive=on,mptcp=off',
      { kind: 'tcp', host: 'h', port: 1, to: 9, ipv4: true, ipv6: false, keepAlive: true },
    ],
  ])('%s', (text, address) => {
    const parsed = parseTcpAddress(text)
    expect(parsed).toEqual(address)
    expect(parseTcpAddress(formatAddress(parsed))).toEqual(address)
  })
  it.each([
    ['localhost', 'the port is missing'],
    ['localhost:', '"" is not a port number'],
    ['localhost:http', '"http" is not a port number'],
    ['localhost:65536', '"65536" is not a port number'],
    ['::1:4444', 'put an IPv6 address in brackets'],
    ['[]:1', 'the brackets are empty'],
    ['h:5,to=4', 'below the first port'],
    ['h:5,to', 'not a port number'],
    ['h:5,ipv4=maybe', 'is on or off, not "maybe"'],
    ['h:5,ipv4=off,ipv6=off', 'both off'],
    ['h:5,mptcp', 'mptcp is not supported'],
    ['h:5,nagle', 'unknown option "nagle"'],
  ])('%s is refused: %s', (text, problem) => {
    expect(() => parseTcpAddress(text)).toThrow(problem)
    expect(() => parseTcpAddress(text)).toThrow(`"tcp:${text}"`)
  })
  it('an IP version that is on excludes the other unless both are', () => {
    expect(
      [',ipv4', ',ipv6', ',ipv4=off', ',ipv6=off', ',ipv4,ipv6', ''].map((o) => familyOf(parseTcpAddress(`h:1${o}`))),
    ).toEqual([4, 6, 6, 4, 0, 0])
  })
})

describe('unix addresses', () => {
  it('take everything after the colon, colons and commas too', () => {
    expect(parseUnixAddress('/tmp/a:b,c')).toEqual({ kind: 'unix', path: '/tmp/a:b,c' })
  })
  it('refuse what the system could not bind', () => {
    expect(() => parseUnixAddress('')).toThrow('the path is empty')
    expect(() => parseUnixAddress('x'.repeat(108))).toThrow('the path has 108 bytes, at most 107 fit')
  })
})
