import type { HartMessage, StartMessage } from './start-message.ts'
import { startThread, type Thread } from './threads.ts'

/**
 * V8 frees single wasm functions that a better tier replaced, wrappers of imports among them, which all threads of a process
 * share. When threads come and go that can free a wrapper twice, which ends the process. Modules are still freed as a
 * whole. See docs/decisions/2026-11-28-no-wasm-code-gc.md. A browser has its own flags.
 */
const v8 = globalThis.process?.getBuiltinModule?.('node:v8')
v8?.setFlagsFromString('--no-wasm-code-gc')
/** What compiled code says about branches that are hardly ever taken; Chromium heeds it without being asked. */
v8?.setFlagsFromString('--experimental-wasm-branch-hinting')

/** What a hart throws away at once, mostly BigInts: V8 would let 48 MiB of it gather, and gains nothing by it. */
const YOUNG_GENERATION_MIB = 6

/** The thread of one hart. */
export interface HartThread {
  /** Resolves when it is in its loop. */
  readonly ready: Promise<void>
  /** Settles when the thread is gone. */
  terminate(): Promise<void>
}

/**
 * Starts a hart's thread.
 * @param onStopped its loop ended; @param onError an exception in it, or it went away without being told to
 */
export function spawnHart(
  start: StartMessage,
  onStopped: (message: Extract<HartMessage, { kind: 'stopped' }>) => void,
  onError: (error: Error) => void,
): HartThread {
  const thread = spare ?? startHartThread()
  spare = undefined
  const { promise: ready, resolve, reject } = Promise.withResolvers<void>()
  ready.catch(() => {})
  let expected = false
  thread.onGone = (error) => {
    if (expected) return
    expected = true
    reject(error)
    onError(error)
  }
  thread.onMessage = (data) => {
    const message = data as HartMessage
    if (message.kind === 'ready') resolve()
    else {
      expected = true
      onStopped(message)
    }
  }
  thread.give(start)
  return {
    ready,
    async terminate() {
      expected = true
      await thread.terminate()
    },
  }
}

/**
 * Starts a thread for the first hart that will be there, while whoever is to make it still loads what it needs. Until then it does
 * not keep the process.
 */
export function prepareHartThread(): void {
  if (spare) return
  const thread = startHartThread()
  thread.onGone = () => {
    if (spare === thread) spare = undefined
  }
  spare = thread
}

let spare: Thread | undefined

function startHartThread(): Thread {
  // Sources run as they are; the build puts the worker beside the package's entry.
  const file = import.meta.url.endsWith('.ts') ? './hart-worker.ts' : './hart-worker.js'
  return startThread(new URL(file, import.meta.url), 'hart', YOUNG_GENERATION_MIB)
}
