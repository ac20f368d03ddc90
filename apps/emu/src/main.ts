#!/usr/bin/env node
import { enableCompileCache } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'

// Half of the time that `emu` takes to start goes into compiling its own sources; Node keeps the result from run to run.
// It goes without where it cannot write. NODE_COMPILE_CACHE names another folder, NODE_DISABLE_COMPILE_CACHE=1 turns it off.
enableCompileCache(join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'ferryvm'))
// A hart's thread takes as long to start as all that is loaded here, and does so beside it.
if (process.argv[2] === 'run') {
  const { prepareHartThread } = await import('@ferryvm/cpu-riscv/prepare')
  prepareHartThread()
}
await import('./commands.ts')
