import { preset } from '../../tooling/tsup/preset.ts'

export default preset([
  'src/index.ts',
  'src/device/index.ts',
  'src/vmstate/index.ts',
  'src/transport/index.ts',
  'src/layer/index.ts',
  'src/cpu/index.ts',
])
