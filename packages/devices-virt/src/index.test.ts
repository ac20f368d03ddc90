import { expect, it } from 'vitest'
import * as devicesVirt from './index.ts'

it('has these public names', () => {
  expect(Object.keys(devicesVirt).sort()).toEqual([
    'DeviceTreeFormatError',
    'MROM',
    'aclintMswi',
    'aclintMtimer',
    'aclintSswi',
    'acpiBuildVmstate',
    'bootRom',
    'cells',
    'cells64',
    'fdtNode',
    'flag',
    'flattenDeviceTree',
    'foreignState',
    'fwCfg',
    'fwCfgVmstate',
    'goldfishRtc',
    'goldfishRtcVmstate',
    'joined',
    'maskRom',
    'mtimerVmstate',
    'parseDeviceTree',
    'pflashCfi01',
    'pflashCfi01Vmstate',
    'plic',
    'plicVmstate',
    'testFinisher',
    'text',
    'uart16550',
    'uart16550Vmstate',
    'virtDeviceTree',
  ])
})
