/**
 * ACME RNG: 32-bit pseudo-random numbers from memory-mapped registers, and an interrupt after so many of them.
 *
 * | offset | register |
 * |---|---|
 * | 0x00 | DATA (read): the next number |
 * | 0x04 | COUNT (read): numbers handed out |
 * | 0x08 | ALARM: raise the interrupt when COUNT reaches this; 0 = never. Writing lowers the interrupt |
 * | 0x0c | SEED (write): start again from this seed |
 */
import { defineDevice, defineVmstate, type StandardSchema, type StateOfVmstate, u32 } from '@ferryvm/core'

const DATA = 0x00
const COUNT = 0x04
const ALARM = 0x08
const SEED = 0x0c

export const acmeRngVmstate = defineVmstate({
  name: 'acme-rng',
  version: 1,
  fields: {
    /** Generator state; never zero. */
    state: u32({ reset: 1 }),
    /** Numbers handed out since reset or the last seed. */
    count: u32(),
    alarm: u32(),
  },
})
type AcmeRngState = StateOfVmstate<typeof acmeRngVmstate>

/** `-device acme-rng,seed=7`. Any Standard Schema will do (zod, valibot); one option needs no library. */
const props: StandardSchema<{ seed?: number | string }, { seed: number }> = {
  '~standard': {
    version: 1,
    vendor: 'acme',
    validate(value) {
      if (typeof value !== 'object' || value === null) return { issues: [{ message: 'not an object' }] }
      const { seed = 1, ...rest } = value as { seed?: number | string }
      const number = Number(seed)
      const unknown = Object.keys(rest)[0]
      if (unknown) return { issues: [{ message: 'unknown option', path: [unknown] }] }
      if (!Number.isInteger(number) || number < 1 || number > 0xffffffff) {
        return { issues: [{ message: `${seed} is not a whole number from 1 to 2^32 - 1`, path: ['seed'] }] }
      }
      return { value: { seed: number } }
    },
  },
}

export const acmeRng = defineDevice({
  type: 'acme-rng',
  props,
  migration: acmeRngVmstate,
  realize({ state, mmio, irq, log }, { seed }) {
    const line = irq()
    mmio(0x10, {
      sizes: [4],
      read(offset) {
        if (offset === DATA) {
          const value = next(state)
          if (state.alarm !== 0 && state.count === state.alarm) line.set(true)
          return value
        }
        return offset === COUNT ? state.count : offset === ALARM ? state.alarm : 0
      },
      write(offset, _bytes, value) {
        if (offset === ALARM) {
          state.alarm = value
          line.set(false)
        } else if (offset === SEED) reseed(state, value)
        else log.guestError('acme-rng: write to a read-only register', { offset, value })
      },
    })
    return {
      reset() {
        state.alarm = 0
        reseed(state, seed)
      },
      // The line's level is kept by the interrupt controller, which migrates on its own.
    }
  },
})

function reseed(state: AcmeRngState, seed: number): void {
  state.state = seed === 0 ? 1 : seed
  state.count = 0
}

/** xorshift32. */
function next(state: AcmeRngState): number {
  let x = state.state
  x ^= x << 13
  x ^= x >>> 17
  x ^= x << 5
  state.state = x >>> 0
  state.count = (state.count + 1) >>> 0
  return state.state
}
