import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { addKallsyms } from './kallsyms.ts'
import { addSymbols, hasSymbols, SymbolFileError } from './symbol-files.ts'
import { SymbolTable } from './symbol-table.ts'

const bytes = (text: string) => new TextEncoder().encode(text)

/** An ELF file with three sections: code, a symbol table, and its names. */
function elf(symbols: readonly { name: string; address: bigint; size?: bigint; info?: number }[]): Uint8Array {
  const names = bytes(`\0${symbols.map((s) => s.name).join('\0')}\0`)
  const tableAt = 64
  const namesAt = tableAt + 24 * symbols.length
  const headersAt = Math.ceil((namesAt + names.length) / 8) * 8
  const file = new Uint8Array(headersAt + 4 * 64)
  const view = new DataView(file.buffer)
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1])
  view.setUint16(18, 243, true)
  view.setBigUint64(40, BigInt(headersAt), true)
  view.setUint16(58, 64, true)
  view.setUint16(60, 4, true)
  let nameAt = 1
  symbols.forEach(({ name, address, size = 0n, info = 2 }, i) => {
    const at = tableAt + 24 * i
    view.setUint32(at, nameAt, true)
    view.setUint8(at + 4, info)
    view.setUint16(at + 6, 1, true)
    view.setBigUint64(at + 8, address, true)
    view.setBigUint64(at + 16, size, true)
    nameAt += name.length + 1
  })
  file.set(names, namesAt)
  const section = (index: number, type: number, flags: bigint, offset: number, size: number, link = 0) => {
    const at = headersAt + 64 * index
    view.setUint32(at + 4, type, true)
    view.setBigUint64(at + 8, flags, true)
    view.setBigUint64(at + 24, BigInt(offset), true)
    view.setBigUint64(at + 32, BigInt(size), true)
    view.setUint32(at + 40, link, true)
  }
  section(1, 1, 6n, 0, 0)
  section(2, 2, 0n, tableAt, 24 * symbols.length, 3)
  section(3, 3, 0n, namesAt, names.length)
  return file
}

describe('symbols', () => {
  it('come from an ELF file: functions, not data, mapping symbols or local labels', () => {
    const table = new SymbolTable()
    const file = elf([
      { name: 'main', address: 0x1000n, size: 0x20n },
      { name: 'data', address: 0x1004n, info: 1 },
      { name: '$x', address: 0x1008n, info: 0 },
      { name: '.L3', address: 0x100cn, info: 0 },
      { name: '_start', address: 0x2000n, info: 0x10 },
    ])
    expect(hasSymbols(file)).toBe(true)
    expect(addSymbols(table, 'guest', file, 0x8000_0000n)).toBe(2)
    expect(table.find(0x8000_101fn)).toMatchObject({ name: 'main', file: 'guest' })
    expect(table.find(0x8000_1020n)).toBeUndefined()
    expect(table.find(0x8000_2ffen)).toMatchObject({ name: '_start' })
    expect(table.find(0x8000_0fffn)).toBeUndefined()
    expect(table.find(0x9000_0000n)).toBeUndefined()
  })

  it('come from System.map and /proc/kallsyms', () => {
    const table = new SymbolTable()
    const map = 'ffffffff80000000 T _start\nffffffff80001000 t do_one_initcall\nffffffff80002000 d data\n'
    expect(addSymbols(table, 'System.map', bytes(map))).toBe(2)
    expect(addSymbols(table, 'kallsyms', bytes('ffffffff01000000 t probe\t[virtio_blk]\n'))).toBe(1)
    expect(table.find(0xffff_ffff_8000_1004n)?.name).toBe('do_one_initcall')
    expect(table.find(0xffff_ffff_0100_0004n)?.name).toBe('probe')
  })

  it.each([
    ['nothing', new Uint8Array(0), /no symbols of functions/],
    ['other text', bytes('hello\n'), /line 1 is not "address type name"/],
    ['an ELF file of another machine', elf([]).map((b, i) => (i === 18 ? 62 : b)), /not for little-endian RV64/],
    ['a cut ELF file', elf([{ name: 'main', address: 0n }]).subarray(0, 100), /section headers at offset/],
    ['an ELF file without functions', elf([]), /no symbols of functions/],
    ['addresses that are hidden', bytes('0000000000000000 D x\n'), /no symbols of functions/],
  ])('refuse %s', (_, file, message) => {
    expect(() => addSymbols(new SymbolTable(), 'F', file)).toThrow(SymbolFileError)
    expect(() => addSymbols(new SymbolTable(), 'F', file)).toThrow(message)
  })

  it('refuse any damaged ELF file, or read it', () => {
    const whole = elf([
      { name: 'main', address: 0x1000n },
      { name: 'other', address: 0x2000n },
    ])
    fc.assert(
      fc.property(fc.integer({ min: 4, max: whole.length - 1 }), fc.integer({ min: 0, max: 255 }), (at, value) => {
        const file = Uint8Array.from(whole)
        file[at] = value
        try {
          expect(addSymbols(new SymbolTable(), 'F', file)).toBeLessThanOrEqual(2)
        } catch (error) {
          expect(error).toBeInstanceOf(SymbolFileError)
        }
      }),
      { numRuns: 2000 },
    )
  })
})

/** A kernel's tables: names that begin with their type, in order of address. Every character is a token, as are the digits. */
function kallsyms(
  symbols: readonly { readonly name: string; readonly offset: number }[],
  form: 'base' | 'distances',
): Uint8Array {
  const out: number[] = new Array(4096).fill(0xaa)
  const u32 = (value: number) => out.push(value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >>> 24) & 255)
  const pad = (to: number) => {
    while (out.length % to) out.push(0)
  }
  u32(symbols.length)
  pad(8)
  const names = out.length
  const markers: number[] = []
  symbols.forEach(({ name }, i) => {
    if (i % 256 === 0) markers.push(out.length - names)
    if (name.length < 128) out.push(name.length)
    else out.push((name.length & 127) | 128, name.length >> 7)
    out.push(...bytes(name))
  })
  pad(8)
  markers.forEach(u32)
  pad(8)
  const table = out.length
  const index: number[] = []
  for (let token = 0; token < 256; token++) {
    index.push(out.length - table)
    if (token >= 33 && token < 127) out.push(token)
    else out.push(...bytes(`<${token}>`))
    out.push(0)
  }
  pad(form === 'base' ? 8 : 4)
  for (const at of index) out.push(at & 255, at >> 8)
  pad(form === 'base' ? 8 : 4)
  symbols.forEach(({ offset }, i) => {
    u32(form === 'base' ? offset : (offset - 0x10_0000 - 4 * i) | 0)
  })
  pad(8)
  if (form === 'base') {
    u32(0x8000_0000)
    u32(0xffff_ffff)
  } else u32(1)
  return Uint8Array.from([...out, ...new Array(16 - (out.length % 8)).fill(0)])
}

describe('the symbols that a Linux kernel keeps in memory', () => {
  const symbols = [
    { name: 'T_start', offset: 0 },
    { name: 'Thandle_exception', offset: 64 },
    ...Array.from({ length: 700 }, (_, i) => ({ name: `t${'f'.repeat(i % 200)}_${i}`, offset: 128 + 64 * i })),
    { name: 'Dsome_data', offset: 0x10_0000 },
  ]

  it.each(['base', 'distances'] as const)('are found, in the form with %s', (form) => {
    const table = new SymbolTable()
    expect(addKallsyms(table, kallsyms(symbols, form), 0xffff_ffff_8000_0040n)).toBe(702)
    expect(table.find(0xffff_ffff_8000_0000n)?.name).toBe('_start')
    expect(table.find(0xffff_ffff_8000_0044n)?.name).toBe('handle_exception')
    expect(table.find(0xffff_ffff_8000_0080n + 64n * 699n)?.name).toBe(`${'f'.repeat(99)}_699`)
  })

  it('are not found in other memory, and damaged tables end the search', () => {
    expect(addKallsyms(new SymbolTable(), new Uint8Array(1 << 16), 0n)).toBe(0)
    expect(addKallsyms(new SymbolTable(), new Uint8Array(1 << 16).fill(0x30), 0n)).toBe(0)
    const whole = kallsyms(symbols, 'base')
    fc.assert(
      fc.property(fc.integer({ min: 4096, max: whole.length - 1 }), fc.integer({ min: 0, max: 255 }), (at, value) => {
        const memory = Uint8Array.from(whole)
        memory[at] = value
        expect(addKallsyms(new SymbolTable(), memory, 0n)).toBeLessThanOrEqual(703)
        expect(addKallsyms(new SymbolTable(), memory.subarray(0, at & ~7), 0n)).toBeLessThanOrEqual(703)
      }),
      { numRuns: 300 },
    )
  })
})
