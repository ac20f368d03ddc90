import { type CompressionType, IMAGE_FORMATS, type ImageFormat } from '@ferryvm/block'
import type { CreateImageOptions } from '@ferryvm/block/node'
import { isOn, parseKeyvals, parseSize } from '../keyval.ts'
import { UsageError } from '../usage-error.ts'

/** @throws UsageError */
export function imageFormat(option: string, name: string): ImageFormat {
  const format = IMAGE_FORMATS.find((f) => f === name)
  if (!format) throw new UsageError(`${option} ${name}: unknown format (there are: ${IMAGE_FORMATS.join(', ')})`)
  return format
}

const READERS: Readonly<Record<string, (value: string) => Partial<CreateImageOptions>>> = {
  cluster_size: (value) => ({ clusterBytes: parseSize(value) }),
  refcount_bits: (value) => ({ refcountBits: parseSize(value) }),
  compression_type: (value) => {
    if (value !== 'zlib' && value !== 'zstd')
      throw new UsageError(`-o compression_type=${value}: there are zlib and zstd`)
    return { compressionType: value satisfies CompressionType }
  },
  compat: (value) => {
    if (value === '1.1' || value === 'v3') return { version: 3 }
    if (value === '0.10' || value === 'v2') return { version: 2 }
    throw new UsageError(`-o compat=${value}: there are 0.10 and 1.1`)
  },
  lazy_refcounts: (value) => ({ lazyRefcounts: isOn(value) }),
  backing_file: (value) => ({ backingFile: value }),
  backing_fmt: (value) => ({ backingFormat: value }),
}

/** `-o name=value,…`. @throws UsageError */
export function creationOptions(text: string | undefined): Partial<CreateImageOptions> {
  const options = Object.entries(text === undefined ? {} : parseKeyvals(text))
  return Object.assign(
    {},
    ...options.map(([name, value]) => {
      const read = READERS[name]
      if (!read) throw new UsageError(`-o ${name}: unknown option (there are: ${Object.keys(READERS).join(', ')})`)
      return read(value)
    }),
  )
}
