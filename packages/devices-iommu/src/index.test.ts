import { expect, it } from 'vitest'
import * as devicesIommu from './index.ts'

it('has these public names', () => {
  expect(Object.keys(devicesIommu).sort()).toEqual(['FaultReason', 'intelIommu', 'intelIommuVmstate'])
})
