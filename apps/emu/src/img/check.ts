import { checkQcow2, type Qcow2CheckResult, type RepairResult, repairQcow2 } from '@ferryvm/block'
import { openImage } from '@ferryvm/block/node'
import type { Command } from 'commander'
import { printLines } from '../stream/print.ts'
import { UsageError } from '../usage-error.ts'

/** Exit statuses of `qemu-img check`. */
const CORRUPT = 2
const LEAKS = 3
const NOT_CHECKED = 63

export function addCheck(img: Command): void {
  img
    .command('check')
    .description(
      'does an image fit together? Exit status 0: yes, 2: it is damaged, 3: it wastes space, 63: raw has no checks',
    )
    .argument('<file>')
    .option('-f <format>', 'raw | qcow2; default: what it looks like')
    .option('-r <what>', 'repair: leaks | all')
    .option('--output <format>', 'human | json', 'human')
    .option('-q', 'print nothing')
    .option('-U', 'also while another process writes to it')
    .exitOverride()
    .action(async (file: string, { f, r, output, q, U }) => {
      if (r !== undefined && r !== 'leaks' && r !== 'all') throw new UsageError(`-r ${r}: there are leaks and all`)
      const image = await openImage(file, { format: f, readOnly: !r, unlocked: U, asItIs: true, withoutBacking: true })
      try {
        if (!image.qcow2) {
          console.error(`emu: ${file}: format ${image.format} has nothing to check`)
          process.exitCode = NOT_CHECKED
          return
        }
        const repair = r ? await repairQcow2(image.qcow2, r) : undefined
        const result = await checkQcow2(image.qcow2)
        if (!q)
          await printLines(
            output === 'json' ? [JSON.stringify(json(file, result, repair), null, 4)] : text(result, repair),
          )
        process.exitCode = result.corruptions > 0 ? CORRUPT : result.leaks > 0 ? LEAKS : 0
      } finally {
        await image.backend.close?.()
      }
    })
}

/** Member names are those of `qemu-img`. */
function json(filename: string, result: Qcow2CheckResult, repair: RepairResult | undefined) {
  const some = (name: string, value: number | undefined) => (value ? { [name]: value } : {})
  return {
    'image-end-offset': result.imageEndOffset,
    ...some('total-clusters', result.totalClusters),
    'check-errors': 0,
    ...some('corruptions', result.corruptions),
    ...some('leaks', result.leaks),
    ...some('corruptions-fixed', repair?.corruptionsFixed),
    ...some('leaks-fixed', repair?.leaksFixed),
    ...some('allocated-clusters', result.allocatedClusters),
    ...some('fragmented-clusters', result.fragmentedClusters),
    ...some('compressed-clusters', result.compressedClusters),
    filename,
    format: 'qcow2',
  }
}

function text(result: Qcow2CheckResult, repair: RepairResult | undefined): string[] {
  const { corruptions, leaks, allocatedClusters, totalClusters } = result
  const lines = repair
    ? [...repair.found.messages, `repaired: ${repair.leaksFixed} leaks, ${repair.corruptionsFixed} errors`]
    : []
  lines.push(...result.messages)
  if (corruptions > 0)
    lines.push(`${corruptions} errors: data may be lost, do not write to this image before it is repaired`)
  if (leaks > 0) lines.push(`${leaks} clusters leak: they take space and hold nothing`)
  if (corruptions + leaks === 0) lines.push('no errors')
  const percent = totalClusters > 0 ? ((100 * allocatedClusters) / totalClusters).toFixed(2) : '0.00'
  const of = (part: number) => (allocatedClusters > 0 ? ((100 * part) / allocatedClusters).toFixed(2) : '0.00')
  lines.push(
    `${allocatedClusters}/${totalClusters} = ${percent}% allocated, ${of(result.fragmentedClusters)}% fragmented, ` +
      `${of(result.compressedClusters)}% compressed clusters`,
    `image end offset: ${result.imageEndOffset}`,
  )
  return lines
}
