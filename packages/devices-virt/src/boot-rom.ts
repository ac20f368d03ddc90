/**
 * The mask ROM in which every hart starts: loads hart id, device tree and firmware-info addresses, jumps.
 * Spec: virt-machine.md section 3.
 */

import { defineDevice, stateless } from '@ferryvm/core'
import { z } from 'zod'

/** Name of the RAM block that the ROM is, and its size. */
export const MROM = { idstr: 'riscv_virt_board.mrom', base: 0x1000, sizeBytes: 61440 } as const

/** "OSBI", what OpenSBI expects at the start of the info block. */
const FW_DYNAMIC_MAGIC = 0x4942534fn
const FW_DYNAMIC_VERSION = 2n
const NEXT_MODE_S = 1n

/** The block itself. Its contents are a boot image of the board, put there anew at every reset. */
export const maskRom = defineDevice({
  type: 'mask-rom',
  props: z.object({}),
  migration: stateless,
  realize(ctx) {
    ctx.ram(MROM.idstr, MROM.sizeBytes, { at: MROM.base, mode: 'rom' })
    return {}
  },
})

export interface BootRomOptions {
  /** Where the harts go, in M-mode: firmware, or a kernel without one. */
  readonly startAddress: number
  readonly deviceTreeAddress: number
  /** Where firmware goes, in S-mode; 0: there is no kernel. */
  readonly nextAddress: number
}

/** @returns the used start of the ROM, 88 bytes; the rest of the block is zero */
export function bootRom({ startAddress, deviceTreeAddress, nextAddress }: BootRomOptions): Uint8Array {
  const bytes = new Uint8Array(0x58)
  const view = new DataView(bytes.buffer)
  const code = [
    0x00000297, // auipc t0, 0
    0x02828613, // addi  a2, t0, 0x28: the info block
    0xf1402573, // csrr  a0, mhartid
    0x0202b583, // ld    a1, 0x20(t0): the device tree
    0x0182b283, // ld    t0, 0x18(t0)
    0x00028067, // jr    t0
  ]
  code.forEach((instruction, i) => {
    view.setUint32(4 * i, instruction, true)
  })
  const words = [
    BigInt(startAddress),
    BigInt(deviceTreeAddress),
    FW_DYNAMIC_MAGIC,
    FW_DYNAMIC_VERSION,
    BigInt(nextAddress),
    NEXT_MODE_S,
    0n, // options
    0n, // boot hart
  ]
  words.forEach((value, i) => {
    view.setBigUint64(0x18 + 8 * i, value, true)
  })
  return bytes
}
