import { createImage } from '@ferryvm/block/node'
import type { Command } from 'commander'
import { parseSize } from '../keyval.ts'
import { creationOptions, imageFormat } from './image-options.ts'

export function addCreate(img: Command): void {
  img
    .command('create')
    .description('make an empty image; whatever the file had is gone')
    .argument('<file>')
    .argument('[size]', 'bytes, or 64M, 2G…; default: that of the backing file')
    .option('-f <format>', 'raw | qcow2', 'raw')
    .option('-b <file>', 'backing file: what is not written here is read from there')
    .option('-F <format>', 'format of the backing file')
    .option(
      '-o <options>',
      'cluster_size=, refcount_bits=, compression_type=zlib|zstd, compat=1.1|0.10, lazy_refcounts=on',
    )
    .option('-q', 'print nothing')
    .exitOverride()
    .action(async (file: string, size: string | undefined, { f, b, F, o, q }: Record<string, string | undefined>) => {
      const bytes = await createImage(file, {
        backingFile: b,
        backingFormat: F,
        ...creationOptions(o),
        format: imageFormat('-f', f!),
        size: size === undefined ? undefined : parseSize(size),
      })
      if (!q) console.log(`${file}: ${f}, ${bytes} bytes`)
    })
}
