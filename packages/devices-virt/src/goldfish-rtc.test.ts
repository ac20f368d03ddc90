import { describe, expect, it } from 'vitest'
import { goldfishRtc } from './goldfish-rtc.ts'
import { realizeAlone } from './realize-alone.ts'

const [TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH, IRQ_ENABLED, CLEAR_ALARM, STATUS, CLEAR_INTERRUPT] = [
  0, 4, 8, 0xc, 0x10, 0x14, 0x18, 0x1c,
]

async function rtc(start = 1_700_000_000_123_456_789n) {
  const host = { ns: start }
  const bench = await realizeAlone(goldfishRtc({ now: () => host.ns }, { at: 0, irq: 11 }))
  bench.device.reset!()
  const time = () => Number(bench.read(TIME_LOW)) + 2 ** 32 * Number(bench.read(TIME_HIGH))
  const alarm = (ns: bigint) => {
    bench.write(ALARM_HIGH, ns >> 32n)
    bench.write(ALARM_LOW, ns & 0xffff_ffffn)
  }
  return { bench, host, time, alarm, high: () => bench.irqs.at(-1) === true }
}

// Spec: virt-machine.md section 6.4.
describe('goldfish-rtc', () => {
  it('shows host time, the high half as latched by the low half', async () => {
    const { bench, host } = await rtc(0x1_ffff_ffffn)
    expect(bench.read(TIME_LOW)).toBe(0xffff_ffffn)
    host.ns = 0x2_0000_0000n
    expect(bench.read(TIME_HIGH)).toBe(1n)
    expect([bench.read(TIME_LOW), bench.read(TIME_HIGH)]).toEqual([0n, 2n])
    expect(bench.read(TIME_LOW, 8)).toBeUndefined()
  })

  it('can be set, and keeps that over a reset', async () => {
    const { bench, host } = await rtc()
    bench.write(TIME_HIGH, 5)
    bench.write(TIME_LOW, 100)
    host.ns += 7n
    bench.device.reset!()
    expect([bench.read(TIME_LOW), bench.read(TIME_HIGH)]).toEqual([107n, 5n])
  })

  it('fires at once for an alarm in the past, and interrupts when enabled', async () => {
    const { bench, alarm, high } = await rtc()
    alarm(1n)
    expect(bench.read(STATUS)).toBe(0n)
    expect(high()).toBe(false)
    bench.write(IRQ_ENABLED, 1)
    expect(high()).toBe(true)
    bench.write(CLEAR_INTERRUPT, 1)
    expect(high()).toBe(false)
  })

  it('fires later, on host time', async () => {
    const { bench, host, alarm, high } = await rtc()
    bench.write(IRQ_ENABLED, 1)
    alarm(host.ns + 5_000_000n)
    expect([bench.read(STATUS), high()]).toEqual([1n, false])
    host.ns += 6_000_000n
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect([bench.read(STATUS), high()]).toEqual([0n, true])
  })

  it('forgets a cancelled alarm', async () => {
    const { bench, host, alarm, high } = await rtc()
    bench.write(IRQ_ENABLED, 1)
    alarm(host.ns + 1_000_000n)
    bench.write(CLEAR_ALARM, 0)
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(high()).toBe(false)
  })

  it('looks at the alarm after a load, but only at one that was set', async () => {
    const { bench, high } = await rtc()
    const { state } = bench.sections[0]!.device!
    state.irq_enabled = 1
    bench.device.resume!()
    expect(high()).toBe(false)
    Object.assign(state, { alarm_running: 1, alarm_next: 5n })
    bench.device.resume!()
    expect(high()).toBe(true)
  })
})
