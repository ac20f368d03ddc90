import {
  defineDevice,
  defineVmstate,
  dma,
  type PciSlot,
  registersItself,
  type StandardSchema,
  struct,
  u32,
} from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { offsetIommu } from './harness/offset-iommu.ts'
import { RAM, VirtioBench } from './harness/virtio-bench.ts'
import { config } from './harness/virtio-driver.ts'

const noProps: StandardSchema<object> = { '~standard': { version: 1, vendor: 'test', validate: () => ({ value: {} }) } }

/** A third party's function: one register; writing it stores its value to memory and raises the interrupt. */
const doorbell = defineDevice({
  type: 'doorbell',
  props: noProps,
  bus: 'pci',
  migration: registersItself,
  realize(ctx) {
    const fn = (ctx.bus as PciSlot).define({ vendorId: 0x1234, deviceId: 0x0001, classCode: 0x0880, interruptPin: 2 })
    const state = { parent_obj: fn.state, last: 0 }
    fn.addBar(0, {
      kind: 'memory',
      sizeBytes: 4096,
      region: {
        read: () => state.last,
        write(_, __, value) {
          state.last = value
          fn.irq.set(value !== 0)
          if (value !== 0 && !dma.store32(ctx.dma, 2 ** 32 + RAM, value)) ctx.log.guestError('doorbell: nowhere')
        },
      },
    })
    fn.addCapability(9, Uint8Array.of(4, 0))
    const vmstate = defineVmstate({
      name: 'doorbell',
      version: 1,
      fields: { parent_obj: struct(fn.vmstate), last: u32() },
    })
    ctx.registerVmstate(vmstate, state)
    return {
      reset() {
        state.last = 0
      },
    }
  },
})

const SLOT = 1
const BAR = 0x4000_0000
const IDSTR = '0000:00:01.0/doorbell'
const create = () =>
  VirtioBench.create([doorbell({}, { bus: 'pcie.0' }), offsetIommu({ offset: 2 ** 32, sourceId: SLOT << 3 })])
function enable(bench: VirtioBench, command: number): void {
  bench.write(config(SLOT, 0x10), BAR)
  bench.write(config(SLOT, 4), command, 2)
}

describe("a third party's PCI device", () => {
  it('decodes its BAR, interrupts on its pin and reaches memory through the IOMMU, bus mastering permitting', async () => {
    await using bench = await create()
    enable(bench, 2)
    bench.write(BAR, 7)
    expect(bench.guestErrors).toHaveLength(1)
    enable(bench, 6)
    bench.write(BAR, 0)
    bench.write(BAR, 0x1234)
    expect(bench.peek16(RAM)).toBe(0x1234)
    expect(bench.guestErrors).toHaveLength(1)
    expect(bench.lines.get(34), 'slot 1, INTB').toBe(true)
    await bench.machine.reset()
    expect(bench.lines.get(34)).toBe(false)
    expect(bench.read(BAR), 'no longer decoded').toBe(0xffff_ffff)
  })

  it('migrates with its configuration space: BARs are mapped and the pin is up, without counting it twice', async () => {
    await using from = await create()
    await using to = await create()
    enable(from, 6)
    from.write(BAR, 5)
    for (const idstr of [IDSTR, 'PCIBUS']) to.load(idstr, from.save(idstr), 1)
    expect(to.save(IDSTR)).toEqual(from.save(IDSTR))
    expect(to.read(BAR)).toBe(5)
    to.machine.start()
    to.write(BAR, 0)
    expect(to.lines.get(34)).toBe(false)
    expect(to.save('PCIBUS').slice(4)).toEqual(new Uint8Array(16))
  })
})
