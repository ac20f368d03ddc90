import { preset } from '../../tooling/tsup/preset.ts'

// The worker lies beside index.js: worker/spawn.ts looks for it there.
export default {
  ...preset(),
  entry: { index: 'src/index.ts', prepare: 'src/prepare.ts', 'hart-worker': 'src/worker/hart-worker.ts' },
  dts: { entry: { index: 'src/index.ts', prepare: 'src/prepare.ts' } },
}
