import { expect, it } from 'vitest'
import * as main from './index.ts'
import * as node from './node/index.ts'

it('exports exactly this', () => {
  expect(Object.keys(main).sort()).toEqual([
    'BackingChainError',
    'IMAGE_FORMATS',
    'ImageCorruptError',
    'ImageError',
    'ImageFeatureError',
    'ImageFormatError',
    'ImageIoError',
    'ImageLockedError',
    'ImageOpenError',
    'ImageOptionError',
    'ImageSnapshotError',
    'Mirror',
    'MirrorCancelledError',
    'MirrorIoError',
    'PROBE_BYTES',
    'Qcow2Image',
    'checkQcow2',
    'createQcow2',
    'memoryImageFile',
    'probeFormat',
    'rawImage',
    'repairQcow2',
    'sizeText',
    'snapshotList',
  ])
  expect(Object.keys(node).sort()).toEqual([
    'Drive',
    'convertImage',
    'createImage',
    'imageInfo',
    'nodeClusterCompression',
    'openImage',
    'openImageFile',
    'rawFile',
    'snapshotInfo',
  ])
})
