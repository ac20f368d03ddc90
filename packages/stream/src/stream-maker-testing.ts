import { ByteBuilder } from './source/byte-sink.ts'
import type { ByteSource } from './source/byte-source.ts'

/** Small streams made by hand, byte for byte as stream.md and ram.md have them. For tests. */
export class StreamMaker {
  readonly #out = new ByteBuilder()
  readonly #text = new TextEncoder()

  head(machine = 'virt', subsections: readonly { name: string; payload: Uint8Array }[] = []): this {
    const out = this.#out
    out.u32(0x5145564d)
    out.u32(3)
    out.u8(7)
    out.u32(machine.length)
    out.put(this.#text.encode(machine))
    for (const { name, payload } of subsections) {
      out.u8(5)
      out.str8(this.#text.encode(name))
      out.u32(1)
      out.put(payload)
    }
    return this
  }
  command(id: number, payload: Uint8Array): this {
    this.#out.u8(8)
    this.#out.u16(id)
    this.#out.u16(payload.length)
    this.#out.put(payload)
    return this
  }
  begin(kind: 'start' | 'full', id: number, idstr: string, version = 1, instance = 0): this {
    this.#out.u8(kind === 'start' ? 1 : 4)
    this.#out.u32(id)
    this.#out.str8(this.#text.encode(idstr))
    this.#out.u32(instance)
    this.#out.u32(version)
    return this
  }
  next(kind: 'part' | 'end', id: number): this {
    this.#out.u8(kind === 'part' ? 2 : 3)
    this.#out.u32(id)
    return this
  }
  footer(id: number): this {
    this.#out.u8(0x7e)
    this.#out.u32(id)
    return this
  }
  raw(...bytes: number[]): this {
    this.#out.put(Uint8Array.from(bytes))
    return this
  }
  bytes(bytes: Uint8Array): this {
    this.#out.put(bytes)
    return this
  }
  u32(v: number): this {
    this.#out.u32(v)
    return this
  }
  u64(v: bigint): this {
    this.#out.u64(v)
    return this
  }
  str8(text: string): this {
    this.#out.str8(this.#text.encode(text))
    return this
  }
  /** Block list with its total, and EOS. */
  blocks(list: Readonly<Record<string, number>>): this {
    this.u64(BigInt(Object.values(list).reduce((a, b) => a + b, 0)) | 4n)
    for (const [name, length] of Object.entries(list)) this.str8(name).u64(BigInt(length))
    return this.eos()
  }
  eos(): this {
    return this.u64(0x10n)
  }
  /** @param description JSON; absent: the stream ends with its end byte */
  end(description?: string): this {
    this.#out.u8(0)
    if (description === undefined) return this
    const text = this.#text.encode(description)
    this.#out.u8(6)
    this.#out.u32(text.length)
    this.#out.put(text)
    return this
  }
  /** Bytes so far. */
  get length(): number {
    return this.#out.length
  }
  done(): Uint8Array {
    return this.#out.bytes()
  }
}

export const describe1 = (name: string, fields: object[], more: object = {}): string =>
  JSON.stringify({ page_size: 4096, devices: [{ name, instance_id: 0, vmsd_name: name, version: 1, fields, ...more }] })

/** A stream that is made while it is read: nothing of it is in memory but `piece`. */
export function repeatingSource(head: Uint8Array, piece: Uint8Array, times: number, tail: Uint8Array): ByteSource {
  const total = head.length + piece.length * times + tail.length
  let at = 0
  return {
    read(into) {
      let filled = 0
      while (filled < into.length && at < total) {
        const inPieces = at - head.length
        const [part, from] =
          at < head.length
            ? [head, at]
            : inPieces < piece.length * times
              ? [piece, inPieces % piece.length]
              : [tail, inPieces - piece.length * times]
        const count = Math.min(into.length - filled, part.length - from)
        into.set(part.subarray(from, from + count), filled)
        filled += count
        at += count
      }
      return filled
    },
  }
}
