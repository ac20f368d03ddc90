import type { Options } from 'tsup'

/** Shared build: ES modules and types, one file per entry, nothing bundled that is not ours. */
export const preset = (entry: string[] = ['src/index.ts']): Options => ({
  entry,
  format: 'esm',
  target: 'es2024',
  dts: true,
  clean: true,
  sourcemap: true,
})
