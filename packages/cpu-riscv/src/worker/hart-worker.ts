import { virtualNsReader } from '@ferryvm/core'
import { ControlBlock } from '../hart/control.ts'
import { GuestViews } from '../hart/guest-views.ts'
import { HartState, WORD } from '../hart/hart-state.ts'
import { LAYOUT } from '../hart/layout.ts'
import { makeInterpreter } from '../interpreter/interpreter.ts'
import { HartCore } from './hart-core.ts'
import { MmioClient } from './mailbox.ts'
import { Neighbours } from './neighbours.ts'
import { Fatal, RunState } from './requests.ts'
import type { HartMessage, StartMessage } from './start-message.ts'
import { postToStarter, threadData } from './threads.ts'

/** Entry of a hart's thread: builds the hart over shared memory and stays in its loop until told to leave. */
const start = (await threadData()) as StartMessage
const buffer = start.memory.buffer as unknown as SharedArrayBuffer
const harts = start.hartBases.map((base, index) => new HartState(buffer, base, index))
const hart = harts[start.index]
const control = new ControlBlock(buffer, start.controlBase)
const { profile } = start
const views = new GuestViews(start.memory, start.logOffsets)
const post = (message: HartMessage): void => postToStarter(message)

try {
  const others = harts.length > 1 ? new Neighbours(hart, harts, views, start.codeHoldersBase) : undefined
  const core = new HartCore(
    {
      hart,
      views,
      control,
      profile,
      others,
      mmio: new MmioClient(hart, control.doorbell),
      poolPages: start.poolPages,
      virtualNs: virtualNsReader(start.clock, start.clockBaseMs),
      compile:
        start.threshold === undefined
          ? undefined
          : { memory: start.memory, harts: harts.length, threshold: start.threshold },
    },
    (imports, compiled) => makeInterpreter({ memory: start.memory, hartBase: hart.base, profile, imports, compiled }),
  )
  others?.attach(() => core.serveFlush())
  post({ kind: 'ready' })
  run(core)
} catch (error) {
  fail(error)
}

function run(core: HartCore): void {
  try {
    if (core.loop()) setTimeout(run, 0, core)
    else post({ kind: 'stopped', fatal: hart.i32[WORD.fatal], value: hart.get(LAYOUT.fatalValue) })
  } catch (error) {
    fail(error)
  }
}

function fail(error: unknown): never {
  Atomics.store(hart.i32, WORD.fatal, Fatal.internal)
  Atomics.store(hart.i32, WORD.runState, RunState.gone)
  Atomics.notify(hart.i32, WORD.runState)
  Atomics.notify(hart.i32, WORD.flushDone)
  throw error
}
