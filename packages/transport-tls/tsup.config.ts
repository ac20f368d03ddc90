import { preset } from '../../tooling/tsup/preset.ts'

export default preset(['src/index.ts', 'src/pki/index.ts', 'src/objects/index.ts', 'src/doctor/index.ts'])
