import type { Command } from 'commander'
import { addDiff } from './diff.ts'
import { addEdit } from './edit.ts'
import { addExplain } from './explain.ts'
import { addInspect } from './inspect.ts'
import { addUpgrade } from './upgrade.ts'
import { addVmstate } from './vmstate.ts'

/** Everything that works on streams and tables. */
export function addStreamCommands(program: Command): void {
  addInspect(program)
  addDiff(program)
  addExplain(program)
  addEdit(program)
  addUpgrade(program)
  addVmstate(program)
}
