import type { SaveStateRegistry } from '@ferryvm/core'
import type { HartState } from '../hart/hart-state.ts'
import type { HartProfile } from '../hart/profile.ts'

export function registerHart(
  _sections: SaveStateRegistry,
  _hart: HartState,
  _profile: HartProfile,
  _cpu: unknown,
): void {}
