/** The same register accesses on our devices and on those of stock QEMU 7.2, which its qtest protocol lets us reach. */
import { fwCfg, pflashCfi01, plic, uart16550 } from '@ferryvm/devices-virt'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Bench, realizeAlone } from '../packages/devices-virt/src/realize-alone.ts'
import { random } from './harness/seeded-random.ts'
import { type AccessSize, Qtest } from './stock-qemu/qtest.ts'
import { stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const missing = stockQemuMissing()
if (missing) console.log(`skipped: ${missing}`)

describe.skipIf(missing)('registers beside those of stock QEMU 7.2', () => {
  let stock: Qtest
  beforeAll(() => {
    stock = new Qtest(['-M', 'virt'])
  })
  afterAll(() => stock.close())

  const both = (bench: Bench) => ({
    async write(address: number, value: number, size: AccessSize): Promise<void> {
      bench.write(address, value, size)
      await stock.write(address, value, size)
    },
    async expectSame(address: number, size: AccessSize | 8, what: string): Promise<bigint> {
      const ours = bench.read(address, size)
      expect(ours, what).toBe(await stock.readBits(address, size))
      return ours!
    },
  })

  it('uart and plic', async () => {
    const UART = 0x1000_0000
    const PLIC = 0xc00_0000
    const controller = await realizeAlone(plic({}, { at: PLIC }))
    const uart = await realizeAlone(uart16550({}, { at: UART, irq: 10 }))
    const line = controller.line(10)
    const { push } = uart.irqs
    uart.irqs.push = (...levels) => {
      for (const level of levels) line.set(level)
      return push.apply(uart.irqs, levels)
    }
    uart.device.reset!()
    controller.device.reset!()
    const u = both(uart)
    const p = both(controller)
    const next = random(16550)
    await p.write(PLIC + 40, 3, 4)
    await p.write(PLIC + 0x2000, 1 << 10, 4)
    await p.write(PLIC + 0x2080, 1 << 10, 4)
    const log: string[] = []
    for (let step = 0; step < 3000; step++) {
      const register = next(8)
      const choice = next(10)
      const at = () => `step ${step} after ${log.slice(-12).join(', ')}`
      if (choice < 4) {
        // The divisor stays, so that nothing here depends on time; break is not modelled.
        const value = register === 3 ? next(64) : register === 4 ? next(32) : next(256)
        log.push(`uart[${register}]=0x${value.toString(16)}`)
        await u.write(UART + register, value, 1)
      } else if (choice < 8) {
        log.push(`uart[${register}]?`)
        await u.expectSame(UART + register, 1, at())
      } else if (choice === 8) {
        log.push('plic?')
        await p.expectSame(PLIC + 0x1000, 4, at())
        const source = await p.expectSame(PLIC + 0x20_0004, 4, at())
        if (next(2)) await p.write(PLIC + 0x20_0004, Number(source), 4)
      } else {
        const offset = [4 * next(97), 0x1000 + 4 * next(4), 0x2000 + 4 * next(4), 0x2080, 0x20_0000, 0x20_1000][
          next(6)
        ]!
        log.push(`plic[0x${offset.toString(16)}]`)
        if (offset < 0x180 && offset !== 0 && next(2))
          await p.write(PLIC + offset, next(8) + (offset === 40 ? 1 : 0), 4)
        else if (offset === 0x20_0000) await p.write(PLIC + offset, next(3), 4)
        await p.expectSame(PLIC + offset, 4, at())
      }
    }
  })

  it('flash', async () => {
    const FLASH = 0x2200_0000
    const bench = await realizeAlone(pflashCfi01({ idstr: 'virt.flash1' }, { at: FLASH }))
    bench.device.reset!()
    const f = both(bench)
    const next = random(31)
    const commands = [0xff, 0xf0, 0x00, 0x10, 0x40, 0x20, 0xd0, 0x50, 0x60, 0x70, 0x90, 0x98, 0xe8, 0x01, 0x03]
    const log: string[] = []
    for (let step = 0; step < 3000; step++) {
      const size = ([1, 2, 4] as const)[next(3)]!
      const offset = next(2) ? next(0x100) & -size : (next(128) * 0x4_0000 + next(64)) & -size
      if (next(5) < 2) {
        const low = next(4) ? commands[next(commands.length)]! : next(256)
        const value = size === 4 ? low | (low << 16) : low
        log.push(`[0x${offset.toString(16)}].${size}=0x${(value >>> 0).toString(16)}`)
        await f.write(FLASH + offset, value, size)
      } else {
        log.push(`[0x${offset.toString(16)}].${size}?`)
        await f.expectSame(FLASH + offset, size, `step ${step} after ${log.slice(-12).join(' ')}`)
      }
    }
  })

  it('fw_cfg', async () => {
    const FW_CFG = 0x1010_0000
    const files = ['bootorder', 'bios-geometry'].map((name) => ({ name, data: new Uint8Array(0) }))
    files.push({ name: 'etc/boot-fail-wait', data: Uint8Array.of(0xff, 0xff, 0xff, 0xff) })
    const bench = await realizeAlone(fwCfg({ files }, { at: FW_CFG }))
    const f = both(bench)
    const swap = (key: number) => ((key & 0xff) << 8) | (key >> 8)
    for (const key of [0x00, 0x01, 0x05, 0x19, 0x20, 0x21, 0x22, 0x23, 0x3fff]) {
      for (const size of [1, 2, 4, 8] as const) {
        await f.write(FW_CFG + 8, swap(key), 2)
        for (let i = 0; i < (key === 0x19 ? 210 / size : 3); i++) {
          await f.expectSame(FW_CFG, size, `item 0x${key.toString(16)}, read ${i} of ${size} bytes`)
        }
      }
    }
    await f.expectSame(FW_CFG + 0x10, 8, 'DMA signature')
    await f.expectSame(FW_CFG + 0x14, 4, 'DMA signature, second half')
  })
})
