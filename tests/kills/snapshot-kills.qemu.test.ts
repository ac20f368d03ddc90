import { expect, it } from 'vitest'
import { qemuImgMissing } from '../../packages/block/src/node/qemu-img-testing.ts'
import { killSnapshots } from './snapshot-kills.ts'

const missing = qemuImgMissing()

it.skipIf(missing)(
  `a process killed while it works on snapshots leaves an image that is whole${missing ? ` (skipped: ${missing})` : ''}`,
  { timeout: 180_000 },
  async () => {
    expect(await killSnapshots(8, 3)).toMatchObject({ kills: 8 })
  },
)
