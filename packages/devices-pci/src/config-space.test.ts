import { describe, expect, it } from 'vitest'
import { ConfigSpace } from './config-space.ts'

const identity = { vendorId: 0x1234, deviceId: 0x5678, revision: 1, classCode: 0x0200, interruptPin: 1 } as const

describe('ConfigSpace', () => {
  it('chains capabilities, newest first, and says that there are some', () => {
    const space = new ConfigSpace(identity)
    expect(space.read(6, 2)).toBe(0)
    expect(space.addCapability('t', 9, Uint8Array.of(1, 2), {})).toBe(0x40)
    expect(space.addCapability('t', 5, new Uint8Array(10), { at: 0x50 })).toBe(0x50)
    expect(space.addCapability('t', 9, new Uint8Array(2), {})).toBe(0x44)
    expect([space.read(0x34, 1), space.read(0x45, 1), space.read(0x51, 1), space.read(0x41, 1)]).toEqual([
      0x44, 0x50, 0x40, 0,
    ])
    expect(space.read(6, 2)).toBe(0x10)
    expect(() => space.addCapability('t', 5, new Uint8Array(10), { at: 0x50 })).toThrow('does not fit')
    expect(() => space.addCapability('t', 5, new Uint8Array(10), { at: 0xf8 })).toThrow('does not fit')
  })

  it('lets a guest write what is writable, clear what it clears with 1, and nothing else', () => {
    const space = new ConfigSpace(identity)
    space.write(0, 4, 0xffff_ffff)
    expect(space.read(0, 4)).toBe(0x5678_1234)
    space.bytes[7] = 0xf9
    space.write(6, 2, 0x8000)
    expect(space.read(6, 2)).toBe(0x7900)
    space.write(0x3c, 1, 0x20)
    space.reset()
    expect([space.read(6, 2), space.read(0x3c, 2)]).toEqual([0, 0x100])
  })

  it('compares on load what no guest can change, and takes the rest', () => {
    const space = new ConfigSpace(identity)
    const incoming = space.bytes.slice()
    incoming[0x3c] = 9
    incoming[4] = 6
    space.load('0000:00:03.0', incoming)
    expect([space.command, space.read(0x3c, 1)]).toEqual([6, 9])
    incoming[2] = 0x79
    expect(() => space.load('0000:00:03.0', incoming)).toThrow(
      expect.objectContaining({ code: 'FERRY_VMSTATE_PCI_CONFIG', configOffset: 2, incoming: 0x79, expected: 0x78 }),
    )
  })
})
