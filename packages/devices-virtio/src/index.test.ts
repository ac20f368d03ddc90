import { expect, it } from 'vitest'
import * as main from './index.ts'
import * as tables from './tables/index.ts'

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
    'virtconsole',
    'virtioBlk',
    'virtioIommu',
    'virtioMmio',
    'virtioNet',
    'virtioRng',
    'virtioSerial',
    'virtserialport',
  ])
  expect(Object.keys(tables)).toEqual(['virtioTables'])
})
