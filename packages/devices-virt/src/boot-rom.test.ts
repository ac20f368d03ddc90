import { expect, it } from 'vitest'
import { bootRom, MROM, maskRom } from './boot-rom.ts'
import { realizeAlone } from './realize-alone.ts'
import { testFinisher } from './test-finisher.ts'

// Spec: virt-machine.md section 3.
it('the boot ROM is stock words, addresses and the fw_dynamic block', () => {
  const rom = bootRom({ startAddress: 0x8000_0000, deviceTreeAddress: 0x87e0_0000, nextAddress: 0x8020_0000 })
  const view = new DataView(rom.buffer)
  expect(rom.length).toBe(88)
  expect(view.getUint32(8, true)).toBe(0xf1402573)
  const quads = [0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50].map((at) => view.getBigUint64(at, true))
  expect(quads).toEqual([0x8000_0000n, 0x87e0_0000n, 0x4942534fn, 2n, 0x8020_0000n, 1n, 0n, 0n])
})

it('the mask ROM takes no writes', async () => {
  const bench = await realizeAlone(maskRom({}))
  expect(bench.physical.write(MROM.base, Uint8Array.of(1))).toBe(true)
  expect(bench.read(MROM.base)).toBe(0n)
})

// Spec: virt-machine.md section 6.5.
it('the test finisher ends and restarts the machine', async () => {
  const bench = await realizeAlone(testFinisher({}, { at: 0 }))
  bench.write(0, 0x5555)
  bench.write(0, 0x0007_3333)
  bench.write(0, 0x7777, 2)
  bench.write(0, 0x1234)
  bench.write(4, 0x5555)
  expect(bench.requests).toEqual(['shutdown 0', 'shutdown 7', 'reset'])
  expect(bench.read(0)).toBe(0n)
})
