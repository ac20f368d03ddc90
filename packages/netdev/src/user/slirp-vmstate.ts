/** State of user-mode networking, as stock's library for it lays it out. Spec: virt-vmstate.md section 16. */
import { buffer, defineVmstate, type StateOfVmstate, structArray, u8, u16, validate } from '@ferryvm/core'

export const LEASES = 16

const leaseVmstate = defineVmstate({
  name: 'slirp-bootp-client',
  version: 1,
  fields: { allocated: u16(), macaddr: buffer(6) },
})

export const slirpVmstate = defineVmstate({
  name: 'slirp',
  version: 4,
  minimumVersion: 4,
  fields: {
    /** Terminator of the list of sockets that a guest reaches by an address of its network. */
    forwards: u8(),
    none: validate(
      'the sender has sockets forwarded to its guest (guestfwd=), which there are none of here',
      (s) => s.forwards === 0,
    ),
    /** Of the next packet. */
    ip_id: u16(),
    /** Who has address 10.0.2.15 and the 15 after it. */
    bootp_clients: structArray(leaseVmstate, LEASES),
  },
})
export type SlirpState = StateOfVmstate<typeof slirpVmstate>
