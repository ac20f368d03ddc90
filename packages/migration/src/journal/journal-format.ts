/**
 * The file of a page journal: what one side of a postcopy migration leaves behind, so that a guest can be put together again
 * when the other side has died. docs/decisions/2026-11-28-page-journal.md says what it is good for.
 *
 *     0       header, slot 0      64 KiB each: "FERRYJN1", be32 length, be32 checksum, JSON; the valid one with the higher
 *     64 KiB  header, slot 1      sequence counts, so a process may die while it writes one
 *     …       per block: bitmap of the pages that are known, bitmap of those that are not zero, the pages at fixed places
 *     …       device state: sections FULL, EOF and the description, as a stream ends with them
 */
import { PAGE_BYTES } from '@ferryvm/core'
import { JournalError } from './journal-error.ts'

export const SLOT_BYTES = 64 * 1024
const SLOTS = 2
const MAGIC = new TextEncoder().encode('FERRYJN1')
const SLOT_HEAD_BYTES = MAGIC.length + 8
const VERSION = 1
const MAX_BLOCKS = 256
const MAX_BLOCK_BYTES = 2 ** 32
export const MAX_DEVICE_BYTES = 256 * 2 ** 20

export interface JournalBlock {
  readonly name: string
  readonly sizeBytes: number
}

export interface JournalHeader {
  readonly version: number
  sequence: number
  readonly role: 'source' | 'destination'
  /** Header and configuration of a stream of this machine, hexadecimal. */
  readonly prefix: string
  /** The number of section `ram` in that stream. */
  readonly ramSectionId: number
  /** In the order of a stream's block list. */
  readonly blocks: readonly JournalBlock[]
  /** What the package of device state hashes to, which tells migrations apart; absent: it has not been seen. */
  package?: string
  /** The source has let go of the guest; the destination has started it. */
  ran: boolean
  /** Every page of the source at the switch is known. */
  whole: boolean
  /** The destination has stopped the guest for good, and this is all of it that was there. */
  saved: boolean
  /** The migration came to its end: the guest is at the destination. */
  completed: boolean
  /** Where device state is. */
  devices?: { readonly at: number; readonly bytes: number }
}

export interface BlockPlace {
  readonly knownAt: number
  readonly contentAt: number
  readonly pagesAt: number
}

export const bitmapBytes = (sizeBytes: number): number => Math.ceil(sizeBytes / PAGE_BYTES / 64) * 8
const aligned = (at: number): number => Math.ceil(at / PAGE_BYTES) * PAGE_BYTES

/** @returns where each block is, and where device state begins */
export function journalLayout(blocks: readonly JournalBlock[]): { places: BlockPlace[]; devicesAt: number } {
  let at = SLOTS * SLOT_BYTES
  const places = blocks.map(({ sizeBytes }) => {
    const knownAt = at
    const contentAt = knownAt + bitmapBytes(sizeBytes)
    const pagesAt = aligned(contentAt + bitmapBytes(sizeBytes))
    at = pagesAt + aligned(sizeBytes)
    return { knownAt, contentAt, pagesAt }
  })
  return { places, devicesAt: at }
}

export const slotAt = (sequence: number): number => (sequence % SLOTS) * SLOT_BYTES

export function encodeHeader(header: JournalHeader): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(header))
  if (json.length > SLOT_BYTES - SLOT_HEAD_BYTES) throw new JournalError('the names of its blocks do not fit')
  const slot = new Uint8Array(SLOT_HEAD_BYTES + json.length)
  const view = new DataView(slot.buffer)
  slot.set(MAGIC)
  view.setUint32(MAGIC.length, json.length)
  view.setUint32(MAGIC.length + 4, fnv1a(json))
  slot.set(json, SLOT_HEAD_BYTES)
  return slot
}

export const newHeader = (
  header: Pick<JournalHeader, 'role' | 'prefix' | 'ramSectionId' | 'blocks'>,
): JournalHeader => ({
  ...header,
  version: VERSION,
  sequence: 0,
  ran: false,
  whole: false,
  saved: false,
  completed: false,
})

/** @param head the first two slots @throws JournalError neither is valid */
export function decodeHeader(head: Uint8Array): JournalHeader {
  const found: JournalHeader[] = []
  for (let at = 0; at + SLOT_HEAD_BYTES <= head.length && at < SLOTS * SLOT_BYTES; at += SLOT_BYTES) {
    const header = decodeSlot(head.subarray(at, at + SLOT_BYTES))
    if (header) found.push(header)
  }
  found.sort((a, b) => b.sequence - a.sequence)
  if (!found[0]) throw new JournalError('this is no page journal, or nothing of it was written')
  check(found[0])
  return found[0]
}

function decodeSlot(slot: Uint8Array): JournalHeader | undefined {
  if (!MAGIC.every((byte, i) => slot[i] === byte)) return undefined
  const view = new DataView(slot.buffer, slot.byteOffset, slot.byteLength)
  const length = view.getUint32(MAGIC.length)
  if (length > slot.length - SLOT_HEAD_BYTES) return undefined
  const json = slot.subarray(SLOT_HEAD_BYTES, SLOT_HEAD_BYTES + length)
  if (fnv1a(json) !== view.getUint32(MAGIC.length + 4)) return undefined
  try {
    return JSON.parse(new TextDecoder().decode(json))
  } catch {
    return undefined
  }
}

/** The checksum says only that nobody damaged it by accident. @throws JournalError */
function check(header: JournalHeader): void {
  const wrong = (what: string): never => {
    throw new JournalError(`its header is not valid: ${what}`)
  }
  const size = (value: unknown, max: number) =>
    Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max
  if (header.version !== VERSION) wrong(`version ${header.version}; only ${VERSION} is known`)
  if (header.role !== 'source' && header.role !== 'destination') wrong(`role ${JSON.stringify(header.role)}`)
  if (typeof header.prefix !== 'string' || !/^([0-9a-f]{2}){8,4096}$/.test(header.prefix)) wrong('prefix')
  if (!size(header.ramSectionId, 2 ** 32 - 1)) wrong('ramSectionId')
  if (!Array.isArray(header.blocks) || header.blocks.length === 0 || header.blocks.length > MAX_BLOCKS) wrong('blocks')
  const names = new Set<string>()
  for (const { name, sizeBytes } of header.blocks) {
    if (typeof name !== 'string' || name.length > 255 || names.has(name)) wrong('the name of a block')
    if (!size(sizeBytes, MAX_BLOCK_BYTES) || sizeBytes % PAGE_BYTES !== 0) wrong(`${name} has ${sizeBytes} bytes`)
    names.add(name)
  }
  const { devices } = header
  if (devices && (!size(devices.at, 2 ** 52) || !size(devices.bytes, MAX_DEVICE_BYTES))) wrong('devices')
}

/** 32 bits. */
export function fnv1a(bytes: Uint8Array): number {
  let hash = 0x811c9dc5
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash >>> 0
}
