import { preset } from '../../tooling/tsup/preset.ts'

export default { ...preset(['src/main.ts']), dts: false }
