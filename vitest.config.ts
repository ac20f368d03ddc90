import { defineConfig } from 'vitest/config'

/**
 * Everything runs from TypeScript sources: the `source` export condition points at `src`, Node 24 strips the types, and
 * worker threads started by a test inherit the condition from the process.
 */
const nodeArgs = ['--conditions=source', '--disable-warning=ExperimentalWarning']

export default defineConfig({
  ssr: { resolve: { conditions: ['source', 'node', 'import', 'default'] } },
  resolve: { conditions: ['source', 'node', 'import', 'default'] },
  test: {
    include: [
      'packages/*/src/**/*.test.ts',
      'apps/*/src/**/*.test.ts',
      'examples/*/src/**/*.test.ts',
      'tests/**/*.test.ts',
    ],
    pool: 'forks',
    execArgv: nodeArgs,
    testTimeout: 30_000,
    hookTimeout: 120_000,
  },
})
