import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import type { CellResult } from './results.ts'
import type { Route } from './routes.ts'

const PER_HOP_MS = 60_000
const BOOT_MS = 240_000

/** A process that runs routes. One that crashes or hangs costs its route, and is replaced; its machines end with it. */
export class Lane implements Disposable {
  #child: ChildProcess | undefined

  run(route: Route): Promise<readonly CellResult[]> {
    const child = (this.#child ??= this.#start())
    return new Promise((resolve) => {
      const settle = (results: readonly CellResult[]) => {
        clearTimeout(timer)
        child.removeAllListeners()
        resolve(results)
      }
      const lost = (note: string) => {
        this[Symbol.dispose]()
        const at = new Date().toISOString()
        const rest = { ok: false, downtimeMs: [], totalMs: [], note, lostByStock: 0, at }
        settle(route.cells.map(({ name }) => ({ cell: name, ...rest })))
      }
      const limitMs = BOOT_MS + route.journey.machines.length * PER_HOP_MS
      const timer = setTimeout(() => lost(`no end within ${limitMs / 1000} s`), limitMs)
      child.once('message', (results) => settle(results as CellResult[]))
      child.once('exit', (code, signal) => lost(`the process of the test ended with ${code ?? signal}`))
      child.send(route)
    })
  }

  #start(): ChildProcess {
    // A group of its own, so that the machines it started can be ended with it.
    return fork(join(import.meta.dirname, 'run-routes.ts'), { detached: true })
  }

  [Symbol.dispose](): void {
    const { pid } = this.#child ?? {}
    this.#child = undefined
    try {
      if (pid) process.kill(-pid, 'SIGKILL')
    } catch {
      // It has ended already.
    }
  }
}
