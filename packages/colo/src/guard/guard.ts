import type { Logger } from '@ferryvm/core'

export type ColoRole = 'primary' | 'secondary'

/**
 * Knows whether the peer lives, and sees to it that only one side goes on when they lose each other. Without one a lost
 * peer is reported (COLO_EXIT) and somebody else decides, with `x-colo-lost-heartbeat`.
 */
export interface ColoGuard {
  /**
   * Resolves when it watches; until then no pair forms.
   * @param lost called at most once: the peer gives no sign of life any more
   * @throws ColoGuardError it cannot, say because an address is taken
   */
  begin(role: ColoRole, log: Logger, lost: (why: string) => void): Promise<void>
  /**
   * May this side go on alone? Asked when the channel failed or the peer was lost; takes its time where the other side has
   * the better right, unless somebody who knows asked for it. Exactly one side is ever told true.
   */
  claim(asked: boolean): Promise<boolean>
  /** Looked at before output is let out: the other side has taken over (it believed us dead while we only slept). */
  readonly overtaken: boolean
  end(): Promise<void>
}
