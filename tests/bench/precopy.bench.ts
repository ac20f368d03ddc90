import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { scratchFolder, stockQemuCommand, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { benchImage } from './bench-guest.ts'
import { emuArgs, type Move, median, move, startSide, stockArgs } from './bench-sides.ts'
import { copyOverSocket } from './socket-copy.ts'

const RAM_MIB = 256
const MiB = 2 ** 20
const MOVES = 3
/** KiB that the guest writes to, over and over, while it moves. */
const DIRTY_KIB = 4096

/**
 * A guest with 256 MiB of RAM, all of it in use, moves between processes over TCP on this machine, without a bandwidth limit:
 * the command line on both sides, driven over QMP. Beside it a bare socket that copies as many bytes, and stock QEMU.
 */
export default async function precopyBench(report: (line: string) => void): Promise<void> {
  const folder = scratchFolder()
  const image = join(folder.path, 'bench.bin')
  writeFileSync(image, benchImage)
  const machine = ['-M', 'virt', '-m', `${RAM_MIB}M`, '-bios', 'none', '-kernel', image]
  const missing = stockQemuMissing()
  const kinds = [{ name: 'ours', command: process.execPath, args: [...emuArgs, ...machine] }]
  if (missing) report(`${missing}: our figures alone`)
  else {
    kinds.push({ name: 'stock QEMU', command: stockQemuCommand, args: [...stockArgs, ...machine] })
  }
  try {
    for (const { name, command, args } of kinds) {
      const start = (incoming: boolean) => startSide(folder.path, command, args, incoming)
      let side = await start(false)
      try {
        await side.console.ready()
        await side.console.run('fill', RAM_MIB)
        for (const load of ['idle', 'beat'] as const) {
          const moves: Move[] = []
          const sockets: number[] = []
          if (load === 'beat') side.console.start('beat', DIRTY_KIB)
          for (let i = 0; i < MOVES; i++) {
            const to = await start(true)
            to.console = side.console
            to.console.type = to.type
            try {
              moves.push(await move(side, to))
            } finally {
              side.kill()
              side = to
            }
            sockets.push(moves.at(-1)!.bytes / (await copyOverSocket(moves.at(-1)!.bytes)))
          }
          const best = Math.max(...moves.map((m) => m.bytes / m.seconds))
          const socket = Math.max(...sockets)
          const doing = load === 'idle' ? 'guest idle' : `guest writes ${DIRTY_KIB / 1024} MiB over and over`
          report(
            `${name}, ${doing}: ${(best / MiB).toFixed(0)} MiB/s (bare socket ${(socket / MiB).toFixed(0)}; ` +
              `ratio ${(best / socket).toFixed(2)}); stopped for ${median(moves.map((m) => m.stoppedMs)).toFixed(0)} ms by events, ` +
              `${median(moves.map((m) => m.downtimeMs)).toFixed(0)} by query-migrate` +
              (load === 'beat'
                ? `, ${median(moves.map((m) => m.silentMs)).toFixed(0)} of silence on the console; ` +
                  `${median(moves.map((m) => m.syncs))} passes`
                : ''),
          )
        }
      } finally {
        side.kill()
      }
    }
  } finally {
    folder.remove()
  }
}
