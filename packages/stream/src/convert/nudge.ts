/**
 * Stock QEMU does not re-arm RISC-V timers when it loads a stream: a guest that sleeps until one fires sleeps for ever. A
 * timer interrupt that is pending already wakes it, and it programs the next one itself. Spec: virt-vmstate.md section 5.
 */
import type { FieldNode, StateNode, Value } from '../state/state-node.ts'
import { integerOf } from './apply-rules.ts'

const STIP = 1n << 5n
const MTIP = 1n << 7n
const STCE = 1n << 63n
const NEVER = (1n << 64n) - 1n
/** "mip is not zero": without it a stock receiver takes no interrupt. */
const INTERRUPT_HARD = 2

/** `cpu_common`. */
export const nudgeCommon = (state: StateNode): StateNode =>
  withValue(state, 'interrupt_request', (v) => Number(v) | INTERRUPT_HARD)

/** `cpu`: the timer interrupts that the hart waits for become pending. */
export function nudgeHart(state: StateNode): StateNode {
  const get = (node: StateNode | undefined, name: string): bigint => {
    const value = node?.fields.find((f) => f.name === name)?.values[0]
    return typeof value === 'bigint' ? value : 0n
  }
  const enabled = get(state, 'env.mie')
  const sstc =
    (get(
      state.subsections.find((s) => s.name === 'cpu/envcfg'),
      'env.menvcfg',
    ) &
      STCE) !==
    0n
  let pending = enabled & MTIP
  if (sstc && get(state, 'env.stimecmp') !== NEVER) pending |= enabled & STIP
  return withValue(state, 'env.mip', (v) => v | pending)
}

function withValue(state: StateNode, name: string, change: (value: bigint) => Value): StateNode {
  const fields = state.fields.map(
    (field): FieldNode => (field.name === name ? { ...field, values: [change(integerOf(field, state.name))] } : field),
  )
  return { ...state, fields }
}
