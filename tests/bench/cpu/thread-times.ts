/** CPU time of another process's threads, in seconds. Linux: /proc/PID/task/TID/schedstat counts nanoseconds. */
import { readdirSync, readFileSync } from 'node:fs'

export type ThreadTimes = ReadonlyMap<string, number>

export function threadTimes(pid: number): ThreadTimes {
  const times = new Map<string, number>()
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    try {
      times.set(thread, Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e9)
    } catch {
      // It ended meanwhile.
    }
  }
  return times
}

/** @returns of all threads, and of the one that worked most: the hart's, while a guest computes */
export function timeBetween(before: ThreadTimes, after: ThreadTimes): { all: number; busiest: number } {
  const each = [...after].map(([thread, seconds]) => seconds - (before.get(thread) ?? 0))
  return { all: each.reduce((sum, s) => sum + s, 0), busiest: Math.max(...each) }
}

/** Of a process with all its threads, those that have ended too; in steps of 10 ms. */
export function processTime(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}
