/**
 * The file that a twin is lazily resumed from, without being one: what a machine would write with `mapped-ram` at one moment, whose
 * pages are read out of the memory of that moment. Spec: ram.md section 7.
 */
import { type QEMUFileWriter, type RamBlock, type SeekableChannel, UnsupportedFeatureError } from '@ferryvm/core'
import { writeMappedHeader } from '../ram/mapped/mapped-layout.ts'
import { RAM_EOS, RAM_MEM_SIZE } from '../ram/ram-records.ts'

/** Where a block's pages and its bitmap are. */
export interface ForkBlock {
  readonly block: RamBlock
  readonly bitmapAt: number
  readonly pagesAt: number
}

const readOnly = (): Promise<never> => Promise.reject(new UnsupportedFeatureError('reading', 'a fork being made'))

/** Takes a stream with holes. */
export class ForkImage implements SeekableChannel {
  readonly features = new Set(['seekable'] as const)
  position = 0
  readonly #pieces: { readonly at: number; readonly bytes: Uint8Array }[] = []

  write(buffers: readonly Uint8Array[]): void {
    for (const buffer of buffers) {
      this.put(this.position, buffer.slice())
      this.position += buffer.length
    }
  }

  put(at: number, bytes: Uint8Array): void {
    this.#pieces.push({ at, bytes })
  }

  seek(position: number): void {
    this.position = position
  }

  /** Everything that was written into that range; the rest of it is left as it is. */
  copy(into: Uint8Array, position: number): void {
    for (const { at, bytes } of this.#pieces) {
      const from = Math.max(position, at)
      const to = Math.min(position + into.length, at + bytes.length)
      if (from < to) into.set(bytes.subarray(from - at, to - at), from - position)
    }
  }

  read = readOnly
  readAt = readOnly
  writeAt = readOnly
  shutdown = readOnly
  async close(): Promise<void> {}
}

/** The `ram` section of such a stream: a block list, and no page. */
export class ForkRam {
  readonly blocks: ForkBlock[] = []
  readonly #image: ForkImage
  readonly #ram: readonly RamBlock[]

  constructor(image: ForkImage, blocks: readonly RamBlock[]) {
    this.#image = image
    this.#ram = blocks
  }

  async setup(f: QEMUFileWriter): Promise<void> {
    const total = this.#ram.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
    f.putBe64(BigInt(total) | BigInt(RAM_MEM_SIZE))
    for (const block of this.#ram) {
      f.putStr8(block.idstr)
      f.putBe64(BigInt(block.sizeBytes))
      this.blocks.push({ block, ...(await writeMappedHeader(this.#image, f, block.sizeBytes)) })
    }
    await this.complete(f)
  }

  async complete(f: QEMUFileWriter): Promise<void> {
    f.putBe64(BigInt(RAM_EOS))
  }
}
