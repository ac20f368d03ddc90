import { describe, it } from 'vitest'
import { COUNTER_ADDRESS, cpuCompliance, RAM_BASE } from '../../compliance/src/cpu/index.ts'
import { rv64 } from './index.ts'

const words = (...list: number[]) => new Uint8Array(Uint32Array.from(list).buffer)

cpuCompliance(
  { describe, it },
  {
    create: (harts) => rv64({ harts }),
    // li t0, 1; slli t0, t0, 31; jr t0
    reset: { address: 0x1000, code: words(0x00100293, 0x01f29293, 0x00028067) },
    programs: {
      // li t0, 1; slli t0, t0, 31; lui t1, 0x10; add t0, t0, t1; loop: ld t1, 0(t0); addi t1, t1, 1; sd t1, 0(t0); j loop
      count: words(0x00100293, 0x01f29293, 0x00010337, 0x006282b3, 0x0002b303, 0x00130313, 0x0062b023, 0xff5ff06f),
    },
    registers: ['pc', 't0', 't1', 'a0', 'mstatus'],
  },
)

if (COUNTER_ADDRESS !== RAM_BASE + 0x1_0000) throw new Error('the program counts elsewhere')
