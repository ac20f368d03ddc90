import { isZeroFilled, type QEMUFileReader, StreamFormatError } from '@ferryvm/core'
import {
  BLOCK_DEVICE,
  BLOCK_EOS,
  BLOCK_PROGRESS,
  BLOCK_SECTION_VERSION,
  BLOCK_ZERO,
  CHUNK_BYTES,
  SECTOR_BITS,
  SECTOR_BYTES,
} from './block-records.ts'
import type { BlockDevice } from './block-save.ts'

/** A record of the section `block` that does not fit this machine's disks. `device`: the disk, where one is named. */
export class BlockLoadError extends StreamFormatError {
  override readonly code = 'FERRY_BLOCK_LOAD'
  readonly device: string
  constructor(device: string, message: string, offset: number, options?: ErrorOptions) {
    super(offset, `section block${device && ` > ${device}`}: ${message}`, options)
    this.device = device
  }
}

const FLAGS_MASK = (1 << SECTOR_BITS) - 1

/** Receiving half of the section `block`: writes into this machine's disks, which become its own with the first chunk. */
export class BlockLoader {
  readonly #devices: () => readonly BlockDevice[]
  readonly #text = new TextDecoder()

  constructor(devices: () => readonly BlockDevice[]) {
    this.#devices = devices
  }

  /** The payload of one START, PART or END. @throws BlockLoadError */
  *load(f: QEMUFileReader, version: number): Generator<number | Promise<void>, void> {
    if (version !== BLOCK_SECTION_VERSION)
      throw new BlockLoadError('', `version ${version}; only ${BLOCK_SECTION_VERSION} is known`, f.position)
    for (;;) {
      if (f.available < 8) yield 8
      const at = f.position
      const word = f.getBe64()
      const flags = Number(word & BigInt(FLAGS_MASK))
      const value = word >> BigInt(SECTOR_BITS)
      if (flags === BLOCK_EOS) return
      if (flags === BLOCK_PROGRESS) {
        if (value > 100n) throw new BlockLoadError('', `a progress of ${value} %`, at)
        continue
      }
      if (flags !== BLOCK_DEVICE && flags !== (BLOCK_DEVICE | BLOCK_ZERO))
        throw new BlockLoadError('', `flags 0x${flags.toString(16)} are no valid combination`, at)
      yield* this.#chunk(f, value, (flags & BLOCK_ZERO) !== 0, at)
    }
  }

  *#chunk(f: QEMUFileReader, sector: bigint, zero: boolean, at: number): Generator<number | Promise<void>, void> {
    if (f.available < 1) yield 1
    const length = f.getByte()
    if (f.available < length) yield length
    const bytes = new Uint8Array(length)
    f.getBuffer(bytes)
    const name = this.#text.decode(bytes)
    const device = this.#devices().find((d) => d.name === name)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: names from the wire are shown without them
    const shown = name.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?')
    if (!device) throw new BlockLoadError(shown, 'this machine has no disk of that name (-drive id=)', at)
    const { backend } = device
    const fail = (message: string, options?: ErrorOptions) => new BlockLoadError(name, message, at, options)
    if (backend.readOnly) throw fail('the disk is read-only here')
    const sectors = BigInt(backend.capacityBytes / SECTOR_BYTES)
    if (sector >= sectors) throw fail(`sector ${sector} is beyond the end of the disk, which has ${sectors} here`)
    const offset = Number(sector) * SECTOR_BYTES
    const there = Math.min(CHUNK_BYTES, backend.capacityBytes - offset)
    let data: Uint8Array | undefined
    if (!zero) {
      if (f.available < CHUNK_BYTES) yield CHUNK_BYTES
      data = new Uint8Array(there)
      f.getBuffer(data)
      f.skip(CHUNK_BYTES - there)
    }
    let failure: unknown
    // What is here already is not read any further before this is on the disk.
    yield write(device, offset, there, data).catch((error: unknown) => void (failure = error))
    if (failure)
      throw fail(`the disk cannot be written at ${offset}: ${(failure as Error).message}`, { cause: failure })
  }
}

async function write({ backend }: BlockDevice, offset: number, bytes: number, data?: Uint8Array): Promise<void> {
  await backend.activate?.()
  if (data && !isZeroFilled(data)) await backend.write(offset, data)
  else if (backend.writeZeroes) await backend.writeZeroes(offset, bytes)
  else await backend.write(offset, data ?? new Uint8Array(bytes))
}
