import { DeviceHost, deviceCompliance } from '@ferryvm/compliance/device'
import { describe, expect, it } from 'vitest'
import { acmeRng } from './index.ts'

const DATA = 0x00
const COUNT = 0x04
const ALARM = 0x08
const SEED = 0x0c
const streams = new URL('./__fixtures__/', import.meta.url)

deviceCompliance(
  { describe, it },
  {
    create: () => acmeRng({ seed: 7 }),
    mutate(host) {
      host.write32(ALARM, 2)
      host.read32(DATA)
      host.read32(DATA)
    },
    observe: (host) => [host.read32(COUNT), host.read32(ALARM)],
    streams,
  },
)

async function device(seed: number): Promise<DeviceHost> {
  const host = await DeviceHost.create(acmeRng({ seed }))
  host.reset()
  return host
}

describe('acme-rng', () => {
  it('gives the same numbers for the same seed, and others for another', async () => {
    const [a, b, c] = [await device(7), await device(7), await device(8)]
    const numbers = (host: DeviceHost) => [0, 1, 2].map(() => host.read32(DATA))
    const fromA = numbers(a)
    expect(fromA).toEqual(numbers(b))
    expect(fromA).not.toEqual(numbers(c))
    a.write32(SEED, 7)
    expect(numbers(a)).toEqual(fromA)
  })

  it('raises the interrupt at the number that ALARM names, once, until ALARM is written', async () => {
    const host = await device(1)
    host.write32(ALARM, 2)
    host.read32(DATA)
    expect(host.irq()).toBe(false)
    host.read32(DATA)
    expect(host.irq()).toBe(true)
    host.write32(ALARM, 0)
    expect(host.irq()).toBe(false)
  })

  it('refuses a seed of zero and options it does not have', async () => {
    await expect(DeviceHost.create(acmeRng({ seed: 0 }))).rejects.toThrow('0 is not a whole number from 1 to 2^32 - 1')
    await expect(DeviceHost.create(acmeRng({ sed: 7 } as object))).rejects.toThrow('unknown option')
  })
})
