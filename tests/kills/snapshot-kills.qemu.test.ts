import { expect, it } from 'vitest'
import { qemuImgMissing } from '../../packages/block/src/node/qemu-img-testing.ts'
import { SnapshotKills } from './snapshot-kills.ts'

const missing = qemuImgMissing()

it.skipIf(missing)(
  `a process killed while it works on snapshots leaves an image that is whole${missing ? ` (skipped: ${missing})` : ''}`,
  { timeout: 180_000 },
  async () => {
    using image = await SnapshotKills.create()
    for (let seed = 3; seed < 11; seed++) {
      expect(['whole', 'unfinished, then mended', 'leaks, then mended']).toContain(await image.kill(seed))
    }
  },
)
