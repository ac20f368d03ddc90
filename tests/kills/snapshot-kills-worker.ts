/**
 * Works on a qcow2 image until it is killed: writes, makes snapshots with VM state, goes back to them, deletes them. What belongs
 * together has the same stamp: a snapshot's name, its VM state and the disk at that time.
 */
import { openImage } from '@ferryvm/block/node'
import { DISK_BYTES, STATE_BYTES, stampOf } from './snapshot-kills.ts'

const [path, seed] = process.argv.slice(2)
let state = Number(seed) || 1
const random = (below: number) => {
  state = (Math.imul(state, 1103515245) + 12345) & 0x7fff_ffff
  return state % below
}
const { qcow2 } = await openImage(path!)
const { snapshots } = qcow2!
process.stdout.write('ready\n')
for (let round = random(1 << 20); ; round++) {
  // The whole disk says which round it is, in an order of its own.
  for (let at = 0; at < DISK_BYTES; at += 65536) await qcow2!.write(at, new Uint8Array(65536).fill(stampOf(round)))
  if (random(4) === 0) await qcow2!.flush()
  const name = `r${round}`
  for (let at = 0; at < STATE_BYTES; at += 100_000) {
    await snapshots.writeVmState(at, new Uint8Array(Math.min(100_000, STATE_BYTES - at)).fill(stampOf(round)))
  }
  const [oldest] = snapshots.list()
  await snapshots.create({
    name,
    dateSeconds: round,
    dateNanoseconds: 0,
    vmClockNs: BigInt(round),
    vmStateBytes: STATE_BYTES,
    replaces: random(2) === 0 ? oldest?.id : undefined,
  })
  await snapshots.discardVmState()
  const list = snapshots.list()
  if (random(3) === 0) await snapshots.apply(list[random(list.length)]!.id)
  if (list.length > 3) await snapshots.delete(list[random(list.length - 1)]!.id)
}
