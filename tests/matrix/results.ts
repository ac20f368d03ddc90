/** What the matrix has found so far, a line of JSON per cell, so that a run can be interrupted and go on. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'

export interface CellResult {
  readonly cell: string
  readonly ok: boolean
  /** Per hop: from the sender's STOP to the receiver's RESUME. Also when the guest did not go on after it. */
  readonly downtimeMs: readonly number[]
  readonly totalMs: readonly number[]
  /** Why it failed, or what happened on the way. */
  readonly note?: string
  /** Runs before this one in which stock 7.2 lost pages. */
  readonly lostByStock: number
  /** ISO 8601. */
  readonly at: string
}

export class ResultFile {
  readonly #path: string
  /** The last one of every cell. */
  readonly results = new Map<string, CellResult>()

  /** @param keep go on from what is there */
  constructor(path: string, keep: boolean) {
    this.#path = path
    mkdirSync(dirname(path), { recursive: true })
    if (!keep) rmSync(path, { force: true })
    if (!existsSync(path)) return
    const text = readFileSync(path, 'utf8')
    for (const line of text.split('\n')) {
      if (line === '') continue
      try {
        const result = JSON.parse(line) as CellResult
        this.results.set(result.cell, result)
      } catch {
        // The line that was being written when the run was killed.
      }
    }
    if (text !== '' && !text.endsWith('\n')) appendFileSync(path, '\n')
  }

  add(result: CellResult): void {
    this.results.set(result.cell, result)
    appendFileSync(this.#path, `${JSON.stringify(result)}\n`)
  }
}
