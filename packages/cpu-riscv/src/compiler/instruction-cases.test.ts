import { afterAll, describe, expect } from 'vitest'
import { instructionCases } from '../interpreter/instruction-cases-testing.ts'
import { flatHart } from '../interpreter/interpreter-testing.ts'

describe('compiled before it runs', () => {
  const shared = instructionCases((options) => flatHart({ ...options, compiles: true }))
  afterAll(() => {
    expect(shared.counter('regions')).toBeGreaterThan(140)
    expect(shared.counter('regionsFailed')).toBe(0)
  })
})
