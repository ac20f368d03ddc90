import { snapshotList } from '@ferryvm/block'
import { openImage } from '@ferryvm/block/node'
import type { Command } from 'commander'
import { printLines } from '../stream/print.ts'
import { UsageError } from '../usage-error.ts'

export function addSnapshot(img: Command): void {
  img
    .command('snapshot')
    .description('snapshots inside an image that no machine uses now')
    .argument('<file>')
    .option('-l', 'list them (the default)')
    .option('-c <name>', 'make one, of the disk alone')
    .option('-a <snapshot>', 'go back to one, by id or name')
    .option('-d <snapshot>', 'delete one, by id or name')
    .option('-U', 'list also while another process writes to it')
    .exitOverride()
    .action(async (file: string, { l, c, a, d, U }) => {
      if ([l, c, a, d].filter((o) => o !== undefined).length > 1)
        throw new UsageError('img snapshot: one of -l, -c, -a, -d')
      const changes = c !== undefined || a !== undefined || d !== undefined
      const image = await openImage(file, { readOnly: !changes, unlocked: U && !changes })
      try {
        const { snapshots } = image.backend
        if (!snapshots) throw new UsageError(`${file}: format ${image.format} has no snapshots`)
        const find = (text: string) => {
          const found = snapshots.list().find((s) => s.id === text) ?? snapshots.list().find((s) => s.name === text)
          if (!found) throw new UsageError(`${file}: there is no snapshot "${text}"`)
          return found.id
        }
        if (c !== undefined) {
          const now = Date.now()
          await snapshots.create({
            name: c,
            dateSeconds: Math.floor(now / 1000),
            dateNanoseconds: (now % 1000) * 1_000_000,
            vmClockNs: 0n,
            vmStateBytes: 0,
          })
        } else if (a !== undefined) await snapshots.apply(find(a))
        else if (d !== undefined) await snapshots.delete(find(d))
        else if (snapshots.list().length > 0) await printLines(['Snapshot list:', ...snapshotList(snapshots.list())])
      } finally {
        await image.backend.close?.()
      }
    })
}
