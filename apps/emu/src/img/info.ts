import { sizeText, snapshotList } from '@ferryvm/block'
import { type ImageInfo, imageInfo, type OpenImage, openImage } from '@ferryvm/block/node'
import type { Command } from 'commander'
import { printLines } from '../stream/print.ts'

export function addInfo(img: Command): void {
  img
    .command('info')
    .description('what an image is')
    .argument('<file>')
    .option('-f <format>', 'raw | qcow2; default: what it looks like')
    .option('--output <format>', 'human | json', 'human')
    .option('--backing-chain', 'also everything below it')
    .option('-U', 'also while another process writes to it')
    .exitOverride()
    .action(async (file: string, { f, output, backingChain, U }) => {
      const image = await openImage(file, {
        format: f,
        readOnly: true,
        unlocked: U,
        asItIs: true,
        withoutBacking: !backingChain,
      })
      try {
        const images: OpenImage[] = []
        for (let at: OpenImage | undefined = image; at; at = at.backing) images.push(at)
        const infos = await Promise.all(images.map(imageInfo))
        if (output === 'json') await printLines([JSON.stringify(backingChain ? infos : infos[0], null, 4)])
        else await printLines(images.flatMap((each, i) => [...(i > 0 ? [''] : []), ...describe(each, infos[i]!)]))
      } finally {
        await image.backend.close?.()
      }
    })
}

function describe({ qcow2 }: OpenImage, info: ImageInfo): string[] {
  const lines = [
    `image: ${info.filename}`,
    `file format: ${info.format}`,
    `virtual size: ${sizeText(info['virtual-size'])} (${info['virtual-size']} bytes)`,
    `disk size: ${sizeText(info['actual-size'])}`,
  ]
  if (!qcow2) return lines
  lines.push(`cluster_size: ${info['cluster-size']}`)
  if (info['dirty-flag']) lines.push('cleanly shut down: no')
  const backing = info['backing-filename']
  if (backing !== undefined) {
    const full = info['full-backing-filename']
    lines.push(`backing file: ${backing}${full === backing ? '' : ` (actual path: ${full})`}`)
    if (info['backing-filename-format']) lines.push(`backing file format: ${info['backing-filename-format']}`)
  }
  const snapshots = qcow2.snapshots.list()
  if (snapshots.length > 0) lines.push('Snapshot list:', ...snapshotList(snapshots))
  lines.push('Format specific information:')
  for (const [name, value] of Object.entries(info['format-specific']!.data)) {
    lines.push(`    ${name.replaceAll('-', ' ')}: ${value}`)
  }
  return lines
}
