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
import { runCampaign } from './campaign.ts'

export const DISK_BYTES = 2 << 20
export const STATE_BYTES = 700_000
export const stampOf = (round: number): number => 1 + (round % 255)

/** What a kill left: an image without a fault, one marked as unfinished, one with clusters that nobody uses. Opening it mends both. */
export type SnapshotFate = 'whole' | 'unfinished, then mended' | 'leaks, then mended'

/** One image, on which one process after the other works until it is killed. */
export class SnapshotKills implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'ferry-kills-'))
  readonly #path = join(this.#folder, 'disk.qcow2')
  /** Snapshots that were read back whole, all kills together. */
  snapshotsRead = 0

  static async create(): Promise<SnapshotKills> {
    const self = new SnapshotKills()
    await createImage(self.#path, { format: 'qcow2', size: DISK_BYTES, clusterBytes: 4096 })
    return self
  }

  /** @throws Error what was wrong afterwards */
  async kill(seed: number): Promise<SnapshotFate> {
    const worker = spawn(
      process.execPath,
      [
        '--conditions=source',
        '--disable-warning=ExperimentalWarning',
        join(import.meta.dirname, 'snapshot-kills-worker.ts'),
        this.#path,
        String(seed),
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    const gone = once(worker, 'exit')
    await Promise.race([once(worker.stdout, 'data'), gone])
    await sleep(((seed * 7919) % 400) + 1)
    worker.kill('SIGKILL')
    const [code] = await gone
    if (code !== null) throw new Error(`the worker ended by itself, with ${code}`)
    return await this.#look()
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }

  async #look(): Promise<SnapshotFate> {
    const path = this.#path
    const { status, stdout, stderr } = spawnSync('qemu-img', ['check', path], { encoding: 'utf8' })
    const info = JSON.parse(spawnSync('qemu-img', ['info', '--output=json', path], { encoding: 'utf8' }).stdout)
    const fate = info['dirty-flag'] ? 'unfinished, then mended' : status === 3 ? 'leaks, then mended' : 'whole'
    if (fate === 'whole' && status !== 0) throw new Error(`qemu-img check ends with ${status}\n${stdout}${stderr}`)
    const { qcow2 } = await openImage(path)
    const all = (bytes: Uint8Array, value: number) => bytes.every((byte) => byte === value)
    const { snapshots } = qcow2!
    for (const { id, name } of snapshots.list()) {
      const stamp = stampOf(Number(name.slice(1)))
      const state = new Uint8Array(STATE_BYTES)
      await (await snapshots.openVmState(id))(0, state)
      if (!all(state, stamp)) throw new Error(`the VM state of snapshot ${name} is not what was saved`)
      await snapshots.apply(id)
      const disk = new Uint8Array(DISK_BYTES)
      await qcow2!.read(0, disk)
      if (!all(disk, stamp)) throw new Error(`the disk of snapshot ${name} is not what was saved`)
      this.snapshotsRead++
    }
    await qcow2!.close()
    const after = spawnSync('qemu-img', ['check', '-r', 'leaks', path], { encoding: 'utf8' })
    if (after.status !== 0)
      throw new Error(`qemu-img check afterwards ends with ${after.status}\n${after.stdout}${after.stderr}`)
    return fate
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const option = (name: string, otherwise: number) =>
    Number(process.argv.find((a) => a.startsWith(`--${name}=`))?.split('=')[1] ?? otherwise)
  const [count, first] = [option('count', 100), option('seed', 1)]
  using image = await SnapshotKills.create()
  await runCampaign({
    count,
    seed: first,
    kills: Array.from({ length: count }, (_, i) => first + i).values(),
    name: (seed) => ({ mode: 'snapshot', pair: 'emu img', victim: 'writer', step: `seed ${seed}` }),
    once: (seed) => image.kill(seed),
  })
  console.log(`${image.snapshotsRead} snapshots were read back, all of them whole`)
}
