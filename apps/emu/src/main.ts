#!/usr/bin/env node
import { enableCompileCache } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'

// Half of the time that `emu` takes to start goes into compiling its own sources; Node keeps the result from run to run.
// It goes without where it cannot write. NODE_COMPILE_CACHE names another folder, NODE_DISABLE_COMPILE_CACHE=1 turns it off.
enableCompileCache(join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'ferryvm'))
await import('./commands.ts')
