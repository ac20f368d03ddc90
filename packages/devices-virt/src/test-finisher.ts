/**
 * SiFive test finisher: how a guest ends or restarts its machine.
 * Spec: virt-machine.md section 6.5.
 */
import { defineDevice, stateless } from '@ferryvm/core'
import { z } from 'zod'

const FINISHER_FAIL = 0x3333
const FINISHER_PASS = 0x5555
const FINISHER_RESET = 0x7777

export const testFinisher = defineDevice({
  type: 'test-finisher',
  props: z.object({}),
  migration: stateless,
  realize(ctx) {
    ctx.mmio(0x1000, {
      sizes: [2, 4],
      read: () => 0,
      write(offset, _bytes, value) {
        if (offset !== 0) return
        const status = value & 0xffff
        if (status === FINISHER_PASS) ctx.machine.requestShutdown('guest-shutdown', 0)
        else if (status === FINISHER_FAIL) ctx.machine.requestShutdown('guest-shutdown', value >>> 16)
        else if (status === FINISHER_RESET) ctx.machine.requestReset('guest-reset')
        else ctx.log.guestError('test finisher: unknown status', { value })
      },
    })
    return {}
  },
})
