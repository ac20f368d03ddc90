import { expect, it } from 'vitest'
import * as cpuRiscv from './index.ts'

it('has these public names', () => {
  expect(Object.keys(cpuRiscv).sort()).toEqual([
    'ACCELERATORS',
    'DEFAULT_ACCELERATOR',
    'HartCrashError',
    'PROFILES',
    'PageNotIsolatedError',
    'VirtualizationError',
    'hartTables',
    'rv64',
    'withInterruptFiles',
  ])
})
