import type { LogOffsets } from '../hart/guest-views.ts'
import type { HartProfile } from '../hart/profile.ts'

/** What a hart's thread needs to begin. Everything after that goes through shared memory. */
export interface StartMessage {
  readonly memory: WebAssembly.Memory
  readonly logOffsets: LogOffsets
  /** Of the ControlBlock. */
  readonly controlBase: number
  /** A u16 per page of guest memory: how many harts hold code of it; 0 when there is one hart. */
  readonly codeHoldersBase: number
  readonly hartBases: readonly number[]
  readonly index: number
  readonly profile: HartProfile
  readonly poolPages: number
  /** Jumps to an instruction that make it worth compiling; undefined: nothing is compiled. */
  readonly threshold: number | undefined
  /** The virtual clock, see core's virtualNsReader. */
  readonly clock: Float64Array<SharedArrayBuffer>
  readonly clockBaseMs: number
}

/** The one message a hart's thread posts when its loop is entered, and the one when it ended. */
export type HartMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'stopped'; readonly fatal: number; readonly value: bigint }
