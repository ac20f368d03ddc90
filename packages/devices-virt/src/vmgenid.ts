/**
 * VM generation ID: 16 bytes that are others when a guest has become another one (a twin of it, or what a snapshot of it
 * was restored to), and an interrupt that says so. A guest takes it as the sign to have new random numbers.
 *
 * Stock's `virt` board has none. Binding: Linux, Documentation/devicetree/bindings/rng/microsoft,vmgenid.yaml (driver since 6.10).
 */
import { defineDevice, defineVmstate, type StateOfVmstate, u8Array } from '@ferryvm/core'
import { z } from 'zod'

const ID_BYTES = 16

/** Not QEMU's section `vmgenid`, which has the place of the ID in the memory of an ACPI guest instead of the ID. */
export const vmgenidVmstate = defineVmstate({
  name: 'ferryvm-vmgenid',
  version: 1,
  fields: {
    /** As the guest reads it. The same guest keeps it, also where it moves to. */
    guid: u8Array(ID_BYTES),
  },
})
type VmgenidState = StateOfVmstate<typeof vmgenidVmstate>

const newId = (): Uint8Array => crypto.getRandomValues(new Uint8Array(ID_BYTES))

/** Placement: the ID at `at`, interrupt `irq`. */
export const vmgenid = defineDevice({
  type: 'vmgenid',
  props: z.object({
    /** A UUID, or `auto`: a random one. A twin and a restored snapshot have another one in any case. */
    guid: z
      .string()
      .regex(/^(auto|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$/i, 'is "auto" or a UUID')
      .default('auto'),
  }),
  migration: vmgenidVmstate,
  realize(ctx, { guid }) {
    const state: VmgenidState = ctx.state
    state.guid.set(guid === 'auto' ? newId() : littleEndian(guid))
    const irq = ctx.irq()
    const view = () => new DataView(state.guid.buffer, state.guid.byteOffset, ID_BYTES)
    ctx.mmio(ID_BYTES, {
      read: (offset, bytes) =>
        bytes === 4
          ? view().getUint32(offset, true)
          : bytes === 2
            ? view().getUint16(offset, true)
            : view().getUint8(offset),
      read64: (offset) => view().getBigUint64(offset, true),
      write: () => ctx.log.guestError('vmgenid: the ID is not for the guest to write'),
    })
    return {
      // A guest that boots anew is the same guest.
      reset() {},
      renewIdentity() {
        state.guid.set(newId())
        // Nothing in the device ends the interrupt: it is the news, once.
        irq.set(true)
        irq.set(false)
      },
      describe: () => `guid ${[...state.guid].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`,
    }
  },
})

/** The first three groups of a UUID are numbers, which the guest reads little-endian. */
function littleEndian(uuid: string): Uint8Array {
  const bytes = Uint8Array.from(uuid.replaceAll('-', '').match(/../g)!, (pair) => Number.parseInt(pair, 16))
  bytes.subarray(0, 4).reverse()
  bytes.subarray(4, 6).reverse()
  bytes.subarray(6, 8).reverse()
  return bytes
}
