import { createTurnBudget, type SaveStateRegistry } from '@ferryvm/core'

/**
 * Generates the code of all sections, before the guest stands still: that is a third of what a machine's first migration does
 * between the last page and the guest's next instruction. In pieces, so that a running guest's devices answer meanwhile.
 */
export async function prepareSections(sections: SaveStateRegistry): Promise<void> {
  const turn = createTurnBudget()
  for (const { device } of sections.entries()) {
    device?.prepare()
    const waiting = turn()
    if (waiting) await waiting
  }
}
