import { FerryError } from '@ferryvm/core'
import type { SymbolTable } from './symbol-table.ts'

/** A file of symbols cannot be read as one; the message says why. */
export class SymbolFileError extends FerryError {
  readonly code = 'FERRY_SYMBOL_FILE'
  readonly file: string
  constructor(file: string, message: string) {
    super(`${file}: ${message}`)
    this.file = file
  }
}

const MAX_SYMBOLS = 4_000_000
const EM_RISCV = 243
const SHT_SYMTAB = 2
const SHF_EXECINSTR = 4n
const STT_NOTYPE = 0
const STT_FUNC = 2

/**
 * Adds the functions of an ELF file (its symbol table), or of a text as System.map and /proc/kallsyms have it: `address type
 * name` in each line.
 * @param offset added to every address
 * @returns how many were added
 * @throws SymbolFileError it is neither, or it has no functions
 */
export function addSymbols(table: SymbolTable, file: string, bytes: Uint8Array, offset = 0n): number {
  const before = table.size
  if (isElf(bytes)) addElf(table, file, bytes, offset)
  else addMap(table, file, bytes, offset)
  const added = table.size - before
  if (added === 0) throw new SymbolFileError(file, 'has no symbols of functions')
  return added
}

/** @returns whether there are symbols: an ELF file of a kernel may have been stripped */
export function hasSymbols(bytes: Uint8Array): boolean {
  return isElf(bytes) && sections('', bytes).some((s) => s.type === SHT_SYMTAB)
}

const isElf = (bytes: Uint8Array) => bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46

interface Section {
  readonly type: number
  readonly flags: bigint
  readonly address: bigint
  readonly offset: number
  readonly bytes: number
  readonly link: number
}

function sections(file: string, bytes: Uint8Array): Section[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.length < 64 || bytes[4] !== 2 || bytes[5] !== 1 || view.getUint16(18, true) !== EM_RISCV)
    throw new SymbolFileError(file, 'is an ELF file, but not for little-endian RV64')
  const headers = Number(view.getBigUint64(40, true))
  const each = view.getUint16(58, true)
  const count = view.getUint16(60, true)
  if (count > 0 && (each < 64 || headers + count * each > bytes.length))
    throw new SymbolFileError(file, `its ${count} section headers at offset ${headers} do not lie within the file`)
  return Array.from({ length: count }, (_, i) => {
    const h = headers + i * each
    return {
      type: view.getUint32(h + 4, true),
      flags: view.getBigUint64(h + 8, true),
      address: view.getBigUint64(h + 16, true),
      offset: Number(view.getBigUint64(h + 24, true)),
      bytes: Number(view.getBigUint64(h + 32, true)),
      link: view.getUint32(h + 40, true),
    }
  })
}

function addElf(table: SymbolTable, file: string, bytes: Uint8Array, offset: bigint): void {
  const all = sections(file, bytes)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (const section of all) {
    if (section.type !== SHT_SYMTAB) continue
    const names = all[section.link]
    for (const part of [section, names]) {
      if (!part || part.offset + part.bytes > bytes.length)
        throw new SymbolFileError(file, 'its symbol table does not lie within the file')
    }
    const count = Math.floor(section.bytes / 24)
    if (count > MAX_SYMBOLS) throw new SymbolFileError(file, `has ${count} symbols; at most ${MAX_SYMBOLS} are read`)
    for (let at = section.offset; at < section.offset + count * 24; at += 24) {
      const kind = bytes[at + 4] & 15
      const within = all[view.getUint16(at + 6, true)]
      const isCode = within !== undefined && (within.flags & SHF_EXECINSTR) !== 0n
      if (!isCode || (kind !== STT_FUNC && kind !== STT_NOTYPE)) continue
      const name = text(bytes, names.offset + view.getUint32(at, true), names.offset + names.bytes)
      // Mapping symbols and local labels are no functions.
      if (name === '' || name.startsWith('$') || name.startsWith('.L')) continue
      table.add(view.getBigUint64(at + 8, true) + offset, name, file, view.getBigUint64(at + 16, true))
    }
  }
}

function text(bytes: Uint8Array, from: number, limit: number): string {
  let to = from
  while (to < limit && bytes[to] !== 0) to++
  return new TextDecoder().decode(bytes.subarray(from, to))
}

function addMap(table: SymbolTable, file: string, bytes: Uint8Array, offset: bigint): void {
  let added = 0
  for (const [index, line] of new TextDecoder().decode(bytes).split('\n').entries()) {
    if (line.trim() === '') continue
    const [, address, kind, name] = /^([0-9a-f]{1,16}) (\S) (\S+)/i.exec(line) ?? []
    if (address === undefined)
      throw new SymbolFileError(
        file,
        `line ${index + 1} is not "address type name": neither an ELF file nor a System.map`,
      )
    if (!/[tw]/i.test(kind)) continue
    if (++added > MAX_SYMBOLS) throw new SymbolFileError(file, `has more than ${MAX_SYMBOLS} symbols`)
    table.add(BigInt(`0x${address}`) + offset, name, file)
  }
}
