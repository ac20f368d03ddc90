import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { zstdDecompressSync } from 'node:zlib'
import { bytesSource, type RamRecord, type SectionHeader, type StreamVisitor, walkStream } from '@ferryvm/stream'

/** A part of a stream that mutations may take, move or repeat as a whole. */
export interface Span {
  readonly kind: 'head' | 'command' | 'start' | 'part' | 'end' | 'full' | 'eof' | 'description'
  readonly start: number
  readonly end: number
  /** Sections: where their payload begins. */
  readonly payloadAt: number
}
/** A real stream, made small: all of its elements, but few of its pages. */
export interface Specimen {
  readonly name: string
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly spans: readonly Span[]
  /** Where records of RAM begin. */
  readonly records: readonly number[]
}

/** Of each block: all that hold something (rings, tables), and of the others enough for records to follow each other. */
const KEPT_PAGES = { page: 40, zero: 12 } as Readonly<Record<string, number>>

const folders = ['../../../shared/streams', '../../packages/stream/src/__fixtures__'].map((f) =>
  resolve(import.meta.dirname, f),
)
const folder = folders.find(existsSync)!

/** All recorded streams of stock QEMU, or the few that are in this repository where `../shared` is missing. */
export async function loadSpecimens(): Promise<Specimen[]> {
  const names = readdirSync(folder)
    .filter((f) => f.endsWith('.mig.zst'))
    .sort()
  const specimens: Specimen[] = []
  for (const name of names)
    specimens.push(await specimen(name.slice(0, -8), zstdDecompressSync(readFileSync(resolve(folder, name)))))
  return specimens
}

/** @throws Error the stream has something wrong with it: it is to be a good one */
export async function specimen(name: string, stream: Uint8Array): Promise<Specimen> {
  const reducer = new Reducer()
  await walkStream(bytesSource(stream), reducer)
  return { name, ...reducer.result() }
}

/** Copies a stream without most of its pages, and notes where its parts are. */
class Reducer implements StreamVisitor {
  readonly #chunks: Uint8Array[] = []
  readonly #spans: Span[] = []
  readonly #records: number[] = []
  readonly #kept = new Map<string, number>()
  #blocks: readonly string[] = []
  #at = 0
  #open: { kind: Span['kind']; start: number; payloadAt: number; sectionId: number } | undefined

  result() {
    const bytes = new Uint8Array(this.#at)
    let at = 0
    for (const chunk of this.#chunks) {
      bytes.set(chunk, at)
      at += chunk.length
    }
    return { bytes, spans: this.#spans, records: this.#records }
  }
  #put(bytes: Uint8Array): void {
    this.#chunks.push(bytes.slice())
    this.#at += bytes.length
  }
  #span(kind: Span['kind'], bytes: Uint8Array): void {
    this.#spans.push({ kind, start: this.#at, end: this.#at + bytes.length, payloadAt: this.#at })
    this.#put(bytes)
  }
  problem({ message, fatal }: { message: string; fatal: boolean }): void {
    if (fatal) throw new Error(`no specimen: ${message}`)
  }
  head(bytes: Uint8Array): void {
    this.#span('head', bytes)
  }
  configuration({ bytes }: { bytes: Uint8Array }): void {
    const head = this.#spans.pop()!
    this.#put(bytes)
    this.#spans.push({ ...head, end: this.#at, payloadAt: head.end })
  }
  command({ id, payload }: { id: number; payload: Uint8Array }): void {
    this.#span('command', commandBytes(id, payload))
  }
  live({ kind, sectionId }: SectionHeader, bytes: Uint8Array): void {
    this.#open = { kind, start: this.#at, payloadAt: this.#at + bytes.length, sectionId }
    this.#put(bytes)
  }
  ramBlocks({ blocks }: { blocks: readonly { idstr: string }[] }, _: SectionHeader, bytes: Uint8Array): void {
    this.#blocks = blocks.map((b) => b.idstr)
    this.#records.push(this.#at)
    this.#put(bytes)
  }
  ram({ kind, block, bytes, payloadAt, pageOffset }: RamRecord): void {
    if (block < 0) {
      this.#records.push(this.#at)
      this.#put(bytes)
      return
    }
    const key = `${block} ${kind}`
    const kept = this.#kept.get(key) ?? 0
    if (kept >= (KEPT_PAGES[kind] ?? 2)) return
    this.#kept.set(key, kept + 1)
    this.#records.push(this.#at)
    // Every record names its block, because the one that it continued may be gone.
    const word = new DataView(bytes.buffer, bytes.byteOffset).getUint32(4) & 0x3df
    this.#put(ramRecord(pageOffset, word, this.#blocks[block]!, bytes.subarray(payloadAt)))
  }
  opaque(_: SectionHeader, payload: Uint8Array): void {
    this.#put(payload)
  }
  liveEnd(): void {
    const { sectionId, kind, start, payloadAt } = this.#open!
    this.#put(footer(sectionId))
    this.#spans.push({ kind, start, payloadAt, end: this.#at })
  }
  state({
    header,
    headerBytes,
    payload,
  }: {
    header: SectionHeader
    headerBytes: Uint8Array
    payload: Uint8Array
  }): void {
    const start = this.#at
    this.#put(headerBytes)
    const payloadAt = this.#at
    this.#put(payload)
    this.#put(footer(header.sectionId))
    this.#spans.push({ kind: 'full', start, payloadAt, end: this.#at })
  }
  end(): void {
    this.#span('eof', Uint8Array.of(0))
  }
  description(text: Uint8Array): void {
    const start = this.#at
    const head = new Uint8Array(5)
    head[0] = 6
    new DataView(head.buffer).setUint32(1, text.length)
    this.#put(head)
    this.#put(text)
    this.#spans.push({ kind: 'description', start, payloadAt: start + 5, end: this.#at })
  }
}

export function ramRecord(
  pageOffset: number,
  flags: number,
  block: string,
  payload: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const name = new TextEncoder().encode(block)
  const bytes = new Uint8Array(9 + name.length + payload.length)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(pageOffset) + BigInt(flags))
  bytes[8] = name.length
  bytes.set(name, 9)
  bytes.set(payload, 9 + name.length)
  return bytes
}
export function commandBytes(id: number, payload: Uint8Array, length = payload.length): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(5 + payload.length)
  bytes[0] = 8
  const view = new DataView(bytes.buffer)
  view.setUint16(1, id)
  view.setUint16(3, length)
  bytes.set(payload, 5)
  return bytes
}
function footer(sectionId: number): Uint8Array {
  const bytes = new Uint8Array(5)
  bytes[0] = 0x7e
  new DataView(bytes.buffer).setUint32(1, sectionId)
  return bytes
}
