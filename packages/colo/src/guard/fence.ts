import type { ColoRole } from './guard.ts'

/** Where exactly one of two sides can win, once: a file on storage that both see, say. */
export interface Fence {
  /** Before a pair forms. @throws ColoGuardError somebody has it already, or it could not be made */
  check(): Promise<void>
  /** True for the first who asks, and whenever that one asks again. @throws ColoGuardError it cannot be reached: nobody may go on */
  claim(role: ColoRole): Promise<boolean>
  /** Somebody else has won; cheap, asked before every release of output. */
  readonly lost: boolean
}
