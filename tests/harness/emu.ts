import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { join, resolve } from 'node:path'

export const root = resolve(import.meta.dirname, '../..')
export const main = join(root, 'apps/emu/src/main.ts')

export interface EmuProcess {
  readonly child: ChildProcess
  /** All of stdout and stderr so far. */
  readonly out: { stdout: string; stderr: string }
  readonly exited: Promise<{ code: number | null; signal: string | null }>
  type(text: string): void
  /** Resolves when stdout contains `text` after position `from`; rejects if the process ends first or time runs out. */
  until(text: string | RegExp, timeoutMs?: number, from?: number): Promise<void>
}

/**
 * Starts the command line as a user does, from sources.
 * @param inherit its descriptors from 3 on: one of ours, or 'pipe' for a socket whose other end is in `child.stdio`
 */
export function emu(args: readonly string[], cwd = root, inherit: readonly (number | 'pipe')[] = []): EmuProcess {
  const child = spawn(
    process.execPath,
    ['--conditions=source', '--disable-warning=ExperimentalWarning', main, ...args],
    { cwd, stdio: ['pipe', 'pipe', 'pipe', ...inherit] },
  ) as ChildProcessWithoutNullStreams
  const out = { stdout: '', stderr: '' }
  const waiting = new Set<() => void>()
  const wake = () => {
    for (const w of waiting) w()
  }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text) => {
      out[name] += text
      wake()
    })
  }
  child.stdin.on('error', () => {})
  let ended = false
  const exited = new Promise<{ code: number | null; signal: string | null }>((done) =>
    child.once('close', (code, signal) => {
      ended = true
      done({ code, signal })
      wake()
    }),
  )
  return {
    child,
    out,
    exited,
    type: (text) => void child.stdin.write(text),
    until(text, timeoutMs = 30_000, from = 0) {
      return new Promise((done, reject) => {
        const look = () => {
          const rest = out.stdout.slice(from)
          const found = typeof text === 'string' ? rest.includes(text) : text.test(rest)
          if (!found && !ended) return
          clearTimeout(timer)
          waiting.delete(look)
          if (found) done()
          else
            reject(
              new Error(`emu ended before printing ${text}\n${out.stdout.slice(-2000)}\n${out.stderr.slice(-2000)}`),
            )
        }
        const timer = setTimeout(() => {
          waiting.delete(look)
          reject(new Error(`no ${text} within ${timeoutMs} ms\n${out.stdout.slice(-2000)}\n${out.stderr.slice(-2000)}`))
        }, timeoutMs)
        waiting.add(look)
        look()
      })
    },
  }
}
