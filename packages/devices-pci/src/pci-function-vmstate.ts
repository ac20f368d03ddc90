/** The `PCIDevice` block that every PCI section begins with. Spec: virt-vmstate.md section 8. */
import { custom, i32Le, type PciFunctionState, type Vmstate, VmstateRangeError, vmstateFor } from '@ferryvm/core'
import { CONFIG_BYTES, STATUS, STATUS_INTERRUPT } from './config-space.ts'

const IRQ_PINS = 4
const PCI_DEVICE_VERSION = 2

/** What the rows need beside their values. */
export interface LoadablePciState extends PciFunctionState {
  /** @throws PciConfigMismatchError */
  acceptConfig(incoming: Uint8Array): void
  afterLoad(): void
}

const table: Vmstate<LoadablePciState> = vmstateFor<LoadablePciState>()({
  name: 'PCIDevice',
  version: PCI_DEVICE_VERSION,
  minimumVersion: 1,
  fields: {
    version_id: i32Le('the sender knows a newer layout of PCI functions', { reset: PCI_DEVICE_VERSION }),
    'config[0]': custom<Uint8Array>({
      wire: 'pci config',
      reset: () => new Uint8Array(CONFIG_BYTES),
      put(config, out) {
        // Status.Interrupt follows from irq_state; senders leave it out.
        const bytes = config.slice()
        bytes[STATUS]! &= ~STATUS_INTERRUPT
        out.putBuffer(bytes)
      },
      *get(input, current, state) {
        yield CONFIG_BYTES
        const incoming = new Uint8Array(CONFIG_BYTES)
        input.getBuffer(incoming)
        ;(state as LoadablePciState).acceptConfig(incoming)
        return current
      },
    }),
    irq_state: custom<Uint32Array>({
      wire: 'pci irq state',
      reset: () => new Uint32Array(IRQ_PINS),
      put(levels, out) {
        for (const level of levels) out.putBe32(level)
      },
      *get(input, levels) {
        yield 4 * IRQ_PINS
        for (let pin = 0; pin < IRQ_PINS; pin++) {
          const level = input.getBe32()
          if (level > 1) throw new VmstateRangeError('', `pin ${pin} has level ${level}; a wire is 0 or 1`)
          levels[pin] = level
        }
        return levels
      },
    }),
  },
  // What an earlier stream brought (one that failed, say) is no bound for this one.
  preLoad: (state) => {
    state.version_id = PCI_DEVICE_VERSION
  },
  postLoad: (state) => state.afterLoad(),
  // A function makes its own state; this one is for reading streams without a function.
  create: () => ({
    version_id: PCI_DEVICE_VERSION,
    'config[0]': new Uint8Array(CONFIG_BYTES),
    irq_state: new Uint32Array(IRQ_PINS),
    acceptConfig() {},
    afterLoad() {},
  }),
})

export const pciFunctionVmstate = table as unknown as Vmstate<PciFunctionState>
