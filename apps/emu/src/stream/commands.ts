import type { Command } from 'commander'
import { addDiff } from './diff.ts'
import { addEdit } from './edit.ts'
import { addInspect } from './inspect.ts'
import { addUpgrade } from './upgrade.ts'

/** Everything that works on streams and tables, without a machine. */
export function addStreamCommands(program: Command): void {
  addInspect(program)
  addDiff(program)
  addEdit(program)
  addUpgrade(program)
}
