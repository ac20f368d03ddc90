import { convertImage } from '@ferryvm/block/node'
import type { Command } from 'commander'
import { progressLine } from '../stream/progress.ts'
import { creationOptions, imageFormat } from './image-options.ts'

export function addConvert(img: Command): void {
  img
    .command('convert')
    .description('write what a disk contains, with everything below it, into an image of its own')
    .argument('<source>')
    .argument('<target>')
    .option('-f <format>', 'of the source; default: what it looks like')
    .option('-O <format>', 'raw | qcow2', 'raw')
    .option('-c', 'compress')
    .option('-o <options>', 'as for create')
    .exitOverride()
    .action(async (source: string, target: string, { f, O, c, o }) => {
      const { progress, done } = progressLine('converting')
      const { backingFile: _, backingFormat: __, ...options } = creationOptions(o)
      await convertImage(source, target, {
        ...options,
        format: imageFormat('-O', O),
        sourceFormat: f,
        compress: c,
        progress,
      })
      done()
    })
}
