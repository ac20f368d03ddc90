export { addressText, type DatagramAddress, type SocketNet, type StreamAddress } from './address.ts'
export { DatagramNet, type DatagramNetOptions } from './datagram-net.ts'
export { StreamNet, type StreamNetOptions } from './stream-net.ts'
