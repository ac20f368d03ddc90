/** What a virtio console device saves of its own. Spec: virt-vmstate.md section 9 D, "console". */
import {
  defineVmstate,
  type StateOfVmstate,
  structVarray,
  u8,
  u16,
  u32,
  u32Varray,
  u64,
  type Vmstate,
  validate,
} from '@ferryvm/core'
import { virtqueueElement } from '../virtqueue-element-wire.ts'

/** Ports whose two queues, with the two of control, find room in a section. Spec: virtio 1.2, section 5.3. */
export const MAX_PORTS = 511

const portVmstate = defineVmstate({
  name: 'virtio-console-port',
  version: 1,
  fields: {
    id: u32(),
    /** A process in the guest has it open. */
    guest_connected: u8(),
    host_connected: u8(),
    /** 1: of a buffer that the guest sent a part has gone out; the rest begins at `iov_offset` of readable part `iov_idx`. */
    elem_popped: u32(),
    iov_idx: u32({ when: (s) => s.elem_popped !== 0 }),
    iov_offset: u64({ when: (s) => s.elem_popped !== 0 }),
    element: virtqueueElement({ when: (s) => s.elem_popped !== 0 }),
  },
})
export type ConsolePortState = StateOfVmstate<typeof portVmstate>

const table = defineVmstate({
  name: 'virtio-console-device',
  version: 3,
  minimumVersion: 3,
  fields: {
    cols: u16(),
    rows: u16(),
    max_nr_ports: u32(),
    count: validate(
      `at most ${MAX_PORTS} ports are possible`,
      (s) => s.max_nr_ports >= 1 && s.max_nr_ports <= MAX_PORTS,
    ),
    /** Bit per port that exists; bit 0 is set in any case, since port 0 is kept for a console. */
    ports_map: u32Varray((s) => Math.ceil(s.max_nr_ports / 32), { max: 16 }),
    nr_active_ports: u32(),
    active: validate('more ports are active than are possible', (s) => s.nr_active_ports <= s.max_nr_ports),
    ports: structVarray(portVmstate, 'nr_active_ports', { max: MAX_PORTS }),
  },
})
export type VirtioConsoleState = StateOfVmstate<typeof table>
export const virtioConsoleTable = (): Vmstate<VirtioConsoleState> => table
