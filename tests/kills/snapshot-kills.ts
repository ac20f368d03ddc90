/**
 * `pnpm snapshot:kills [--count=N] [--seed=N]`: kills a process with SIGKILL while it makes, loads and deletes snapshots in a qcow2
 * image, over and over on the same image. After each kill qemu-img finds nothing worse than leaks, unless the image is marked
 * as unfinished, and nothing at all once it was opened; every snapshot in its list is whole.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { createImage, openImage } from '@ferryvm/block/node'

export const DISK_BYTES = 2 << 20
export const STATE_BYTES = 700_000
export const stampOf = (round: number): number => 1 + (round % 255)

export interface SnapshotKills {
  kills: number
  /** Of them, those that left the image marked as unfinished. */
  unfinished: number
  /** Of them, those that left leaks. */
  leaks: number
  /** Snapshots that were read back whole, all kills together. */
  snapshotsRead: number
}

/** @throws Error naming the kill and what was wrong afterwards */
export async function killSnapshots(count: number, seed: number, report = (_: string) => {}): Promise<SnapshotKills> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-kills-'))
  const path = join(folder, 'disk.qcow2')
  const result: SnapshotKills = { kills: 0, unfinished: 0, leaks: 0, snapshotsRead: 0 }
  try {
    await createImage(path, { format: 'qcow2', size: DISK_BYTES, clusterBytes: 4096 })
    for (let kill = 0; kill < count; kill++) {
      const worker = spawn(
        process.execPath,
        [
          '--conditions=source',
          '--disable-warning=ExperimentalWarning',
          join(import.meta.dirname, 'snapshot-kills-worker.ts'),
          path,
          String(seed + kill),
        ],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      )
      const gone = once(worker, 'exit')
      await Promise.race([once(worker.stdout, 'data'), gone])
      await sleep(((kill * 7919 + seed) % 400) + 1)
      worker.kill('SIGKILL')
      const [code] = await gone
      if (code !== null) throw new Error(`kill ${kill}: the worker ended by itself, with ${code}`)
      result.kills++
      await lookAt(path, `kill ${kill} (seed ${seed})`, result)
      if (kill % 20 === 19) report(JSON.stringify(result))
    }
    return result
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function lookAt(path: string, when: string, result: SnapshotKills): Promise<void> {
  const { status, stdout, stderr } = spawnSync('qemu-img', ['check', path], { encoding: 'utf8' })
  const info = JSON.parse(spawnSync('qemu-img', ['info', '--output=json', path], { encoding: 'utf8' }).stdout)
  if (info['dirty-flag']) result.unfinished++
  else if (status === 3) result.leaks++
  else if (status !== 0) throw new Error(`${when}: qemu-img check ends with ${status}\n${stdout}${stderr}`)
  const { qcow2 } = await openImage(path)
  const all = (bytes: Uint8Array, value: number) => bytes.every((byte) => byte === value)
  const { snapshots } = qcow2!
  for (const { id, name } of snapshots.list()) {
    const stamp = stampOf(Number(name.slice(1)))
    const state = new Uint8Array(STATE_BYTES)
    await (await snapshots.openVmState(id))(0, state)
    if (!all(state, stamp)) throw new Error(`${when}: the VM state of snapshot ${name} is not what was saved`)
    await snapshots.apply(id)
    const disk = new Uint8Array(DISK_BYTES)
    await qcow2!.read(0, disk)
    if (!all(disk, stamp)) throw new Error(`${when}: the disk of snapshot ${name} is not what was saved`)
    result.snapshotsRead++
  }
  await qcow2!.close()
  const after = spawnSync('qemu-img', ['check', '-r', 'leaks', path], { encoding: 'utf8' })
  if (after.status !== 0)
    throw new Error(`${when}: qemu-img check afterwards ends with ${after.status}\n${after.stdout}${after.stderr}`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const option = (name: string, otherwise: number) =>
    Number(process.argv.find((a) => a.startsWith(`--${name}=`))?.split('=')[1] ?? otherwise)
  const result = await killSnapshots(option('count', 100), option('seed', 1), console.log)
  console.log(JSON.stringify(result))
}
