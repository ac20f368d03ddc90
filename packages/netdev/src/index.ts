/** What network cards are plugged into: a hub, and a small network with DHCP. Sockets are in `@ferryvm/netdev/node`. */
export { NetFrameError } from './errors.ts'
export { FrameSplitter, lengthPrefixed } from './frame-splitter.ts'
export { NetHub } from './hub.ts'
export { slirp } from './user/slirp.ts'
export { type SlirpState, slirpVmstate } from './user/slirp-vmstate.ts'
export { UserNet } from './user/user-net.ts'
