import { describe, expect, it } from 'vitest'
import { parseKeyvals, parseSize } from './keyval.ts'
import { normaliseDashes } from './qemu-arguments.ts'
import { UsageError } from './usage-error.ts'

describe('keyvals', () => {
  it('reads an implied first key, bare flags and doubled commas', () => {
    expect(parseKeyvals('virt,profile=qemu-7.2', 'type')).toEqual({ type: 'virt', profile: 'qemu-7.2' })
    expect(parseKeyvals('unix:a,,b,server', 'head')).toEqual({ head: 'unix:a,b', server: 'on' })
    expect(parseKeyvals('file=/tmp/a=b.img,readonly=on')).toEqual({ file: '/tmp/a=b.img', readonly: 'on' })
  })

  it('refuses a key twice or without a name', () => {
    expect(() => parseKeyvals('a=1,a=2')).toThrow(UsageError)
    expect(() => parseKeyvals('=1')).toThrow(/item 1 has no name/)
  })
})

describe('sizes', () => {
  it.each([
    ['256M', 'B', 256 * 2 ** 20],
    ['64', 'M', 64 * 2 ** 20],
    ['1.5G', 'B', 1.5 * 2 ** 30],
    ['0x1000', 'B', 4096],
    ['512k', 'M', 512 * 1024],
  ] as const)('%s in %s is %i bytes', (text, unit, bytes) => expect(parseSize(text, unit)).toBe(bytes))

  it.each(['', '12Q', '-5', 'M'])('refuses %j', (text) => expect(() => parseSize(text)).toThrow(UsageError))
})

describe('dashes', () => {
  it('doubles those of long options only', () => {
    expect(normaliseDashes(['run', '-nographic', '-m', '64M', '-S', '--smp', '2', '-no-reboot'])).toEqual([
      'run',
      '--nographic',
      '-m',
      '64M',
      '-S',
      '--smp',
      '2',
      '--no-reboot',
    ])
  })
})
