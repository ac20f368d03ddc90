import type { Command } from 'commander'
import { addDiff } from './diff.ts'
import { addEdit } from './edit.ts'
import { addExplain } from './explain.ts'
import { addInspect } from './inspect.ts'
import { addUpgrade } from './upgrade.ts'

/** Commands that load without the emulator. */
export const STREAM_COMMANDS: readonly string[] = ['inspect', 'diff', 'explain', 'edit', 'upgrade']

/** Everything that works on streams. */
export function addStreamCommands(program: Command): void {
  addInspect(program)
  addDiff(program)
  addExplain(program)
  addEdit(program)
  addUpgrade(program)
}
