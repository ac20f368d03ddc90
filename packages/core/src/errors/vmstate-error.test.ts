import { describe, expect, it } from 'vitest'
import { FerryError } from './ferry-error.ts'
import { isVmstateError, VmstateRangeError, VmstateVersionError } from './vmstate-error.ts'

describe('VmstateError', () => {
  it('collects its path from the inside out', () => {
    const error = new VmstateRangeError('', '17 entries do not fit a FIFO of 16')
    error.insideRow('num', 0x2f3a).insideRow('recv_fifo', 0x2f00).inSection('serial/0')
    expect(error).toMatchObject({ section: 'serial/0', row: 'recv_fifo.num', offset: 0x2f3a })
    expect(error.path).toBe('serial/0 > recv_fifo.num')
    expect(error.message).toBe('serial/0 > recv_fifo.num: 17 entries do not fit a FIFO of 16 (stream offset 0x2f3a)')
    expect(error.stack?.split('\n')[0]).toBe(`VmstateRangeError: ${error.message}`)
    expect(error.stack).toContain('vmstate-error.test.ts')
  })

  it('is known across copies of this package by its mark, not by its class', () => {
    const error = new VmstateVersionError('', 3, 1, 2, { section: 'cpu' })
    expect(error.message).toBe('cpu: cannot load version 3; this build reads 1 to 2')
    expect(FerryError.isInstance(error)).toBe(true)
    expect(isVmstateError(error)).toBe(true)
    expect(FerryError.isInstance(new Error('x'))).toBe(false)
    expect(FerryError.isInstance(undefined)).toBe(false)
  })
})
