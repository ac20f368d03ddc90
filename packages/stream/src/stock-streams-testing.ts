import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { zstdDecompressSync } from 'node:zlib'

/**
 * Streams of stock QEMU 7.2 and 10.0, with the values that an independent parser found in them: all of ../shared/streams,
 * or, where that is missing, the three that are copied here.
 */
const shared = resolve(import.meta.dirname, '../../../../shared/streams')
const folder = existsSync(shared) ? shared : resolve(import.meta.dirname, '__fixtures__')
if (folder !== shared)
  console.log('streams of stock QEMU: ../shared/streams is not here; three of them are in the repository')

export const stockStreams: readonly string[] = readdirSync(folder)
  .filter((f) => f.endsWith('.mig.zst'))
  .map((f) => f.slice(0, -8))
const unpack = (file: string) => new Uint8Array(zstdDecompressSync(readFileSync(resolve(folder, file))))

export const loadStream = (name: string): Uint8Array => unpack(`${name}.mig.zst`)
export const decodedText = (name: string): string => new TextDecoder().decode(unpack(`${name}.decoded.json.zst`))

export interface RecordedBlock {
  readonly idstr: string
  readonly used_length: number
  readonly zero_page_records: number
  readonly data_page_records: number
  readonly distinct_pages: number
}
export function recordedBlocks(name: string): readonly RecordedBlock[] {
  const manifest: { streams: { name: string; ram_blocks: RecordedBlock[] }[] } = JSON.parse(
    readFileSync(resolve(folder, 'manifest.json'), 'utf8'),
  )
  return manifest.streams.find((s) => s.name === name)!.ram_blocks
}
