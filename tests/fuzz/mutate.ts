import type { Random } from '../lockstep/random.ts'
import { commandBytes, ramRecord, type Span, type Specimen } from './corpus.ts'

/** Numbers that lengths and counts go wrong at. */
const EDGES = [
  0,
  1,
  2,
  3,
  5,
  6,
  7,
  8,
  15,
  16,
  17,
  64,
  127,
  128,
  254,
  255,
  256,
  1023,
  1024,
  1025,
  4095,
  4096,
  4097,
  32767,
  32768,
  65535,
  65536,
  1 << 20,
  1 << 24,
  1 << 26,
  0x7ffffffe,
  0x7fffffff,
  0x80000000,
  0x80000001,
  0xfffffffe,
  0xffffffff,
]
const TYPES = [
  'uint8',
  'uint64',
  'struct',
  'qtailq',
  'gtree',
  'bool',
  'buffer',
  'virtio',
  'timer',
  'pci config',
  'bitmap',
]
const utf8 = new TextEncoder()
const latin1 = new TextDecoder('latin1')

/** A damaged copy. The same specimen, donor and random numbers give the same bytes. */
export function mutate(specimen: Specimen, donor: Specimen, random: Random): Uint8Array<ArrayBuffer> {
  // Elements first, while it is known where they are; then bytes of what came out.
  let bytes = random.chance(0.4) ? rearranged(specimen, donor, random) : specimen.bytes.slice()
  const intact = bytes.length === specimen.bytes.length
  for (let n = intact ? 1 + random.below(3) : random.below(2); n > 0; n--)
    bytes = random.pick(BYTE_MUTATIONS)(bytes, specimen, random)
  return bytes
}

function rearranged(specimen: Specimen, donor: Specimen, random: Random): Uint8Array<ArrayBuffer> {
  const pieces = specimen.spans.map((span) => specimen.bytes.slice(span.start, span.end))
  const spans = [...specimen.spans]
  // The head stays in front most of the time: without it there is nothing to read.
  const first = random.chance(0.05) ? 0 : 1
  const at = first + random.below(pieces.length - first)
  const to = first + random.below(pieces.length - first)
  const insert = (where: number, piece: Uint8Array<ArrayBuffer>) => pieces.splice(where, 0, piece)
  switch (random.below(9)) {
    case 0:
      pieces.splice(at, 1)
      break
    case 1:
      insert(to, pieces[at]!)
      break
    case 2:
      insert(to, pieces.splice(at, 1)[0]!)
      break
    case 3: {
      const theirs = donor.spans[1 + random.below(donor.spans.length - 1)]!
      insert(to, donor.bytes.slice(theirs.start, theirs.end))
      break
    }
    case 4: {
      // The other release's section of the same name, say.
      const theirs = random.pick(donor.spans)
      pieces[at] = donor.bytes.slice(theirs.start, theirs.end)
      break
    }
    case 5:
      insert(to, randomCommand(random, pieces))
      break
    case 6:
      editHeader(pieces[at]!, spans[at]!, random)
      break
    case 7:
      pieces[at] = resizedPayload(pieces[at]!, spans[at]!, random)
      break
    default: {
      const description = spans.findIndex((s) => s.kind === 'description')
      if (description >= 0) pieces[description] = editDescription(pieces[description]!, random)
    }
  }
  return concat(pieces)
}

function randomCommand(random: Random, pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const id = random.chance(0.8) ? random.below(13) : random.below(65536)
  // A package: its length, then elements.
  if (id === 7 && random.chance(0.7)) {
    const inner = random.pick(pieces)
    const payload = new Uint8Array(4)
    new DataView(payload.buffer).setUint32(0, random.chance(0.7) ? inner.length : random.pick(EDGES))
    return concat([commandBytes(7, payload), inner])
  }
  const payload = Uint8Array.from({ length: random.pick([0, 0, 4, 16, 20, 36, random.below(300)]) }, () =>
    random.below(256),
  )
  return commandBytes(id, payload, random.chance(0.8) ? payload.length : random.pick(EDGES) & 0xffff)
}

/** Section id, length of the name, a letter of it, instance or version. */
function editHeader(piece: Uint8Array, { kind }: Span, random: Random): void {
  const named = kind === 'start' || kind === 'full'
  if (piece.length < 14) return
  const view = new DataView(piece.buffer, piece.byteOffset, piece.length)
  const name = piece[5]!
  const places = named ? [1, 5, 6 + random.below(Math.max(1, name)), 6 + name, 10 + name] : [1]
  const place = random.pick(places)
  if (place === 5 || (place > 5 && place < 6 + name)) piece[place] = random.below(256)
  else if (place + 4 <= piece.length) view.setUint32(place, random.chance(0.5) ? random.below(40) : random.pick(EDGES))
}

/** Bytes more or less in front of the footer, or somewhere in the state. */
function resizedPayload(piece: Uint8Array, span: Span, random: Random): Uint8Array<ArrayBuffer> {
  const head = span.payloadAt - span.start
  const at = head + random.below(Math.max(1, piece.length - head - 4))
  const count = random.pick([1, 2, 4, 8, random.below(64), random.below(4096)])
  if (random.chance(0.5)) return concat([piece.subarray(0, at), piece.subarray(Math.min(piece.length, at + count))])
  const from = head + random.below(Math.max(1, piece.length - head))
  return concat([piece.subarray(0, at), piece.slice(from, from + count), piece.subarray(at)])
}

function editDescription(piece: Uint8Array, random: Random): Uint8Array<ArrayBuffer> {
  let text = latin1.decode(piece.subarray(5))
  const numbers = [...text.matchAll(/: (\d+)/g)]
  const types = [...text.matchAll(/"type": "([^"]*)"/g)]
  const replace = ({ 0: all, index }: RegExpMatchArray, by: string) =>
    text.slice(0, index) + by + text.slice(index! + all.length)
  switch (random.below(7)) {
    case 0:
    case 1:
    case 2:
      if (numbers.length > 0)
        text = replace(
          random.pick(numbers),
          `: ${random.chance(0.8) ? random.pick(EDGES) : random.pick(['-1', '1e300', '0.5', '9007199254740993', 'null', '"x"', '[]'])}`,
        )
      break
    case 3:
      if (types.length > 0) text = replace(random.pick(types), `"type": "${random.pick(TYPES)}"`)
      break
    case 4: {
      const at = random.below(text.length)
      text = text.slice(0, at) + text.slice(at + random.below(random.pick([2, 40, 4000])))
      break
    }
    case 5: {
      const at = random.below(text.length)
      const from = random.below(text.length)
      text = text.slice(0, at) + text.slice(from, from + random.below(600)) + text.slice(at)
      break
    }
    default: {
      const at = text.indexOf('"fields": ', random.below(text.length))
      const nest = random.pick(['[', '{"a":', '[{"name": "x", "type": "struct", "size": 1, "struct": '])
      if (at >= 0)
        text = text.slice(0, at) + `"fields": ${nest.repeat(random.pick([3, 70, 110, 20_000]))}` + text.slice(at)
    }
  }
  const bytes = utf8.encode(text)
  const out = new Uint8Array(5 + bytes.length)
  out[0] = 6
  new DataView(out.buffer).setUint32(1, random.chance(0.8) ? bytes.length : random.pick(EDGES))
  out.set(bytes, 5)
  return out
}

type ByteMutation = (bytes: Uint8Array<ArrayBuffer>, specimen: Specimen, random: Random) => Uint8Array<ArrayBuffer>

/** Somewhere that matters: most of a stream is pages and text. */
function place(bytes: Uint8Array, { spans, records }: Specimen, random: Random): number {
  const span = random.pick(spans)
  const near = random.below(4)
  const at =
    near === 0 && records.length > 0
      ? random.pick(records) + random.below(28)
      : near === 1
        ? span.start + random.below(Math.max(1, span.payloadAt - span.start))
        : span.payloadAt + random.below(Math.max(1, span.end - span.payloadAt))
  return Math.min(at, Math.max(0, bytes.length - 1))
}

const BYTE_MUTATIONS: readonly ByteMutation[] = [
  (bytes, specimen, random) => {
    const at = place(bytes, specimen, random)
    bytes[at] = bytes[at]! ^ (1 << random.below(8))
    return bytes
  },
  (bytes, specimen, random) => {
    bytes[place(bytes, specimen, random)] = random.chance(0.5) ? random.pick(EDGES) & 0xff : random.below(256)
    return bytes
  },
  (bytes, specimen, random) => {
    const size = random.pick([2, 4, 8])
    const at = place(bytes, specimen, random)
    if (at + size > bytes.length) return bytes
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const edge = random.pick(EDGES)
    if (size === 2) view.setUint16(at, edge & 0xffff)
    else if (size === 4) view.setUint32(at, edge)
    else view.setBigUint64(at, random.chance(0.5) ? BigInt(edge) : (BigInt(edge) << 32n) | BigInt(random.pick(EDGES)))
    return bytes
  },
  // Cut off: anywhere, or where something begins.
  (bytes, specimen, random) =>
    bytes.slice(0, random.chance(0.3) ? random.below(bytes.length + 1) : place(bytes, specimen, random)),
  (bytes, specimen, random) => {
    const at = place(bytes, specimen, random)
    return concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + 1 + random.below(64)))])
  },
  (bytes, specimen, random) => {
    const at = place(bytes, specimen, random)
    const from = place(bytes, specimen, random)
    return concat([bytes.subarray(0, at), bytes.slice(from, from + 1 + random.below(64)), bytes.subarray(at)])
  },
  // A run of noise.
  (bytes, specimen, random) => {
    const at = place(bytes, specimen, random)
    const end = Math.min(bytes.length, at + 1 + random.below(16))
    for (let i = at; i < end; i++) bytes[i] = random.below(256)
    return bytes
  },
  // A record of RAM that was not there.
  (bytes, { records }, random) => {
    if (records.length === 0) return bytes
    const at = Math.min(random.pick(records), bytes.length)
    const flags = random.chance(0.7) ? 1 << random.below(10) : random.below(0x400)
    const name = random.pick(['mach-virt.ram', 'riscv_virt_board.ram', 'pc.ram', 'virt.flash0', 'nothing', ''])
    const payload = new Uint8Array(random.pick([0, 1, 8, 4096])).fill(random.pick([0, 0, 7]))
    const page = random.pick(EDGES) * 4096
    return concat([bytes.subarray(0, at), ramRecord(page, flags, name, payload), bytes.subarray(at)])
  },
]

function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
