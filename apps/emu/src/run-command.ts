import type { Command } from 'commander'
import { run } from './run.ts'
import { runCommand } from './run-options.ts'

export function addRunCommand(program: Command): void {
  program.addCommand(runCommand(run).exitOverride())
}
