// What the interfaces of other folders name; see the files of this folder.
export type { VmstateCodec } from './codec.ts'
export type { Vmstate } from './table.ts'
