import { expect, it } from 'vitest'
import * as main from './index.ts'

it('exports exactly this', () => {
  expect(Object.keys(main).sort()).toEqual([
    'NbdDisk',
    'NbdProtocolError',
    'NbdRefusedError',
    'NbdRequestError',
    'NbdServer',
    'nbdExportNames',
  ])
})
