import { describe, expect, it } from 'vitest'
import { CAPABILITIES, Capabilities } from './capabilities.ts'
import { PARAMETERS, Parameters } from './parameters.ts'

describe('parameters (protocol.md section 4)', () => {
  it('have the defaults of the reference', () => {
    const { values } = new Parameters()
    expect(values).toMatchObject({
      'max-bandwidth': 134217728,
      'downtime-limit': 300,
      'xbzrle-cache-size': 67108864,
      'multifd-channels': 2,
      'tls-creds': '',
      'cpu-throttle-tailslow': false,
    })
  })
  it('change all together or not at all', () => {
    const parameters = new Parameters()
    expect(() => parameters.set({ 'downtime-limit': 5, 'max-bandwidth': -1 })).toThrow('max_bandwidth')
    expect(parameters.values['downtime-limit']).toBe(300)
    parameters.set({ 'downtime-limit': 2_000_000, 'max-bandwidth': 0, 'tls-creds': null, 'multifd-channels': 2 })
    expect(parameters.values['downtime-limit']).toBe(2_000_000)
  })
  it.each<[Record<string, unknown>, string]>([
    [{ 'downtime-limit': 2_000_001 }, 'parameter "downtime_limit" is an integer from 0 to 2000000, not 2000001'],
    [{ 'downtime-limit': 1.5 }, 'is an integer'],
    [{ 'downtime-limit': '5' }, 'is an integer from 0 to 2000000, not "5"'],
    [{ 'cpu-throttle-tailslow': 'on' }, 'is on or off'],
    [{ 'multifd-compression': 'rar' }, 'is one of none, zlib, zstd'],
    [{ 'multifd-qatzip-level': 3 }, 'is not implemented here; it stays 1'],
    [{ 'xbzrle-cache-size': 12_288 }, 'is a power of two from 4096'],
    [{ 'xbzrle-cache-size': 0 }, 'is a power of two from 4096'],
    [{ 'max-cpu-throttle': 19 }, 'is an integer from 20 (cpu_throttle_initial) to 99, not 19'],
    [{ 'multifd-compression': 'zstd' }, 'cannot be zstd: this host has none'],
    [{ constructor: 1 }, 'does not exist'],
  ])('%o is refused', (changes, message) => {
    expect(() => new Parameters().set(changes)).toThrow(message)
  })
  it('that ask for a channel layer are refused where nobody would look at them', () => {
    expect(() => new Parameters().set({ 'tls-creds': 'tls0' })).toThrow('"tls_creds" is not implemented here')
    const parameters = new Parameters(true)
    parameters.set({ 'tls-creds': 'tls0', 'tls-hostname': 'node2' })
    expect(parameters.values).toMatchObject({ 'tls-creds': 'tls0', 'tls-hostname': 'node2' })
    parameters.set({ 'tls-authz': 'a' })
    expect(() => new Parameters().set({ 'tls-authz': 'a' })).toThrow('is not implemented here')
  })
  it('are typed at a monitor with suffixes; bandwidth counts in MiB', () => {
    const parameters = new Parameters()
    parameters.setText('max-bandwidth', '1.5')
    expect(parameters.values['max-bandwidth']).toBe(1.5 * 2 ** 20)
    parameters.setText('max-bandwidth', '1g')
    expect(parameters.values['max-bandwidth']).toBe(2 ** 30)
    parameters.setText('downtime-limit', '17')
    expect(parameters.values['downtime-limit']).toBe(17)
    expect(() => parameters.setText('downtime-limit', '17x')).toThrow('not "17x"')
    expect(() => parameters.setText('max-bandwidth', 'fast')).toThrow('is a size')
  })
  it('every default passes its own check', () => {
    expect(() =>
      new Parameters().set(Object.fromEntries(Object.entries(PARAMETERS).map(([n, d]) => [n, d.default]))),
    ).not.toThrow()
  })
})

describe('capabilities', () => {
  it('are all off, in the order of the reference; what is not implemented stays off', () => {
    const capabilities = new Capabilities()
    expect(capabilities.list()).toEqual(CAPABILITIES.map((capability) => ({ capability, state: false })))
    capabilities.set([
      { capability: 'events', state: true },
      { capability: 'multifd', state: false },
    ])
    expect(capabilities.get('events')).toBe(true)
    expect(() =>
      capabilities.set([
        { capability: 'events', state: false },
        { capability: 'x-colo', state: true },
      ]),
    ).toThrow('capability "x-colo" is not implemented here; it can only be off')
    expect(capabilities.get('events')).toBe(true)
  })
  it.each([
    [['xbzrle', 'multifd'], '"xbzrle" cannot be on together with "multifd"'],
    [['mapped-ram', 'postcopy-ram'], '"postcopy-ram" cannot be on together with "mapped-ram"'],
    [['multifd', 'postcopy-ram'], '"postcopy-ram" cannot be on together with "multifd"'],
    [['postcopy-preempt'], '"postcopy-preempt" needs "postcopy-ram"'],
  ])('%s contradict each other', (names, message) => {
    const capabilities = new Capabilities()
    expect(() => capabilities.set(names.map((capability) => ({ capability, state: true })))).toThrow(message)
    expect(capabilities.list().some(({ state }) => state)).toBe(false)
  })
})
