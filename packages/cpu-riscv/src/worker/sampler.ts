import type { HartSample, HartSampler } from '@ferryvm/core'
import { type HartState, WORD } from '../hart/hart-state.ts'
import { LAYOUT } from '../hart/layout.ts'
import { Request, RunState } from './requests.ts'
import { request } from './stale-code.ts'

/** LAYOUT.sample32: bits beside the privilege mode. */
const ANSWERED = 4
const HALTED = 8

/** The hart's end, where it serves requests: its registers are in memory there, whatever ran before. */
export function answerSample(hart: HartState): void {
  const { i32 } = hart
  i32[WORD.samplePc] = i32[WORD.pc]
  i32[WORD.samplePc + 1] = i32[WORD.pc + 1]
  Atomics.store(i32, WORD.sample, ANSWERED | hart.priv | (hart.halted ? HALTED : 0))
}

/** The device thread's end. */
export function createSampler(harts: readonly HartState[]): HartSampler {
  const resting = new Map<HartState, HartSample>()
  return {
    ask() {
      for (const hart of harts) {
        const runState = Atomics.load(hart.i32, WORD.runState)
        Atomics.store(hart.i32, WORD.sample, 0)
        if (runState === RunState.running) request(hart, Request.sample)
        else {
          const state = runState === RunState.waiting ? 'idle' : 'stopped'
          resting.set(hart, { pc: hart.pc, mode: hart.priv, state })
        }
      }
    },
    take(index) {
      const hart = harts[index]
      const rested = resting.get(hart)
      if (rested) {
        resting.delete(hart)
        return rested
      }
      const answer = Atomics.exchange(hart.i32, WORD.sample, 0)
      if (answer === 0) return undefined
      const state = answer & HALTED ? 'idle' : 'running'
      return { pc: hart.get(LAYOUT.samplePc), mode: answer & 3, state }
    },
  }
}
