import { defineDevice, registersItself } from '@ferryvm/core'
import { z } from 'zod'
import { slirpVmstate } from './slirp-vmstate.ts'
import { UserNet } from './user-net.ts'

/**
 * Section `slirp` of a {@link UserNet}; no registers. Without a network, the section of a sender that has one is taken in
 * and goes no further: its guest's connections end, and a receiver without such a network would refuse it.
 */
export const slirp = defineDevice({
  type: 'slirp',
  props: z.strictObject({ network: z.instanceof(UserNet).optional() }).prefault({}),
  migration: registersItself,
  realize(ctx, { network }) {
    const vmstate = network ? slirpVmstate : { ...slirpVmstate, needed: () => false }
    ctx.registerVmstate(vmstate, network?.state ?? slirpVmstate.createState())
    return {}
  },
})
