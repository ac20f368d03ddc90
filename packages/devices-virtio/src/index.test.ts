import { expect, it } from 'vitest'
import * as main from './index.ts'

it('exports exactly this', () => {
  expect(Object.keys(main).sort()).toEqual([
    'DmaOnLoadError',
    'VirtioDevice',
    'Virtqueue',
    'gather',
    'memoryBlock',
    'registerVirtioSection',
    'scatter',
    'segmentBytes',
    'virtioBlk',
    'virtioMmio',
    'virtioRng',
  ])
})
