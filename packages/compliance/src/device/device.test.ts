import {
  defineDevice,
  defineVmstate,
  registersItself,
  type StandardSchema,
  stateless,
  u8,
  u32,
  unmigratable,
} from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { deviceCompliance } from './index.ts'

const anyProps: StandardSchema<object> = {
  '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value: value as object }) },
}
const latch = defineDevice({
  type: 'latch',
  props: anyProps,
  migration: defineVmstate({ name: 'latch', version: 1, fields: { value: u32({ reset: 7 }), enabled: u8() } }),
  realize({ state, mmio, irq, log }) {
    const line = irq()
    mmio(8, {
      read: (offset) => (offset === 0 ? state.value : state.enabled),
      write(offset, _, value) {
        if (offset === 0) state.value = value
        else if (offset === 4) state.enabled = value & 1
        else log.guestError('no such register')
        line.set(state.enabled === 1)
      },
    })
    return {}
  },
})
deviceCompliance(
  { describe, it },
  {
    create: () => latch({}),
    mutate(host) {
      host.write32(0, 42)
      host.write32(4, 1)
    },
    observe: (host) => [host.read32(0), host.read32(4)],
    streams: [{ name: 'latch.v1.bin', version: 1, bytes: Uint8Array.of(0, 0, 0, 1, 1) }],
  },
)

deviceCompliance(
  { describe, it },
  {
    create: () => defineDevice({ type: 'finisher', props: anyProps, migration: stateless, realize: () => ({}) })({}),
  },
)
deviceCompliance(
  { describe, it },
  {
    create: () =>
      defineDevice({
        type: 'passthrough',
        props: anyProps,
        migration: unmigratable('host handles'),
        realize: () => ({}),
      })({}),
  },
)

describe('the kit finds', () => {
  function cases(type: Parameters<typeof defineDevice>[0], mutate = (host: any) => host.write32(0, 1)) {
    const found = new Map<string, () => Promise<void>>()
    const runner = {
      describe: (_: string, body: () => void) => body(),
      it: (name: string, body: () => void | Promise<void>) => found.set(name, async () => body()),
    }
    deviceCompliance(runner, { create: () => defineDevice(type as any)({}), mutate })
    return found
  }
  const vmstate = defineVmstate({ name: 'd', version: 1, fields: { value: u32() } })

  it('state that two devices share', async () => {
    const shared = { value: 0 }
    const found = cases({
      type: 'd',
      props: anyProps as any,
      migration: registersItself,
      realize({ mmio, registerVmstate }: any) {
        registerVmstate(vmstate, shared)
        mmio(4, { read: () => shared.value, write: (_: number, __: number, v: number) => void (shared.value = v) })
        return { reset: () => void (shared.value = 0) }
      },
    } as any)
    await expect(found.get('two devices share nothing')!()).rejects.toThrow('the first device, section d')
  })

  it('a reset that forgets a register', async () => {
    const found = cases({
      type: 'd',
      props: anyProps as any,
      migration: vmstate,
      realize({ mmio, state }: any) {
        mmio(4, { read: () => state.value, write: (_: number, __: number, v: number) => void (state.value = v) })
        return { reset() {} }
      },
    } as any)
    await expect(found.get('reset brings back the state after power-on')!()).rejects.toThrow('after reset, section d')
  })

  it('a register access that throws', async () => {
    const found = cases({
      type: 'd',
      props: anyProps as any,
      migration: vmstate,
      realize({ mmio }: any) {
        mmio(4, {
          read: () => 0,
          write() {
            throw new Error('boom')
          },
        })
        return {}
      },
    } as any)
    await expect(
      found.get('any access to its registers is the guest’s business: logged, never thrown')!(),
    ).rejects.toThrow('boom')
  })
})
