import { describe } from 'vitest'
import { instructionCases } from './instruction-cases-testing.ts'
import { flatHart } from './interpreter-testing.ts'

describe('interpreted', () => {
  instructionCases(flatHart)
})
