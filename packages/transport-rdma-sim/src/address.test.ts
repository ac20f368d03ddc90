import { expect, it } from 'vitest'
import { formatRdmaAddress, parseRdmaAddress } from './address.ts'
import { RdmaAddressError } from './errors.ts'

it.each([
  ['host:4444', { host: 'host', port: 4444 }],
  ['192.0.2.7:0', { host: '192.0.2.7', port: 0 }],
  ['[2001:db8::1]:65535', { host: '2001:db8::1', port: 65535 }],
  [':4444', { host: '', port: 4444 }],
])('%s is an address, and comes back as the same text', (text, address) => {
  expect(parseRdmaAddress(text)).toEqual(address)
  expect(formatRdmaAddress(address)).toBe(text)
})

it.each([
  ['host', /the port is missing/],
  ['2001:db8::1:4444', /put an IPv6 address in brackets/],
  ['host:65536', /"65536" is not a port number/],
  ['host:', /"" is not a port number/],
  ['host:0x10', /is not a port number/],
  ['host:1,ipv4=on', /there are no options/],
])('%s is none, in words', (text, problem) => {
  expect(() => parseRdmaAddress(text)).toThrow(RdmaAddressError)
  expect(() => parseRdmaAddress(text)).toThrow(problem)
})
