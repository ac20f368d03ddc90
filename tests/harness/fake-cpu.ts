import type { Cpu, CpuSpec } from '@ferryvm/core'

/** A CPU that runs nothing: the test itself plays the guest. */
export function fakeCpu(harts = 1): CpuSpec {
  return {
    type: 'fake',
    harts,
    async realize(): Promise<Cpu> {
      return {
        harts: Array.from({ length: harts }, (_, index) => ({
          index,
          line: () => ({ set() {} }),
          pending: () => false,
          setMtimecmp() {},
        })),
        timeDelta: 0n,
        start() {},
        pause: async () => {},
        reset() {},
        flushAll() {},
        flushWriteTlb: async () => {},
        instructionsRetired: 0n,
        readRegister: () => 0n,
        describe: () => '',
        close: async () => {},
      }
    },
  }
}
