// The table, its rows and the codec: see the sketch of the contract; implemented in this folder.
export type { Vmstate, VmstateCodec } from './define-vmstate.ts'
