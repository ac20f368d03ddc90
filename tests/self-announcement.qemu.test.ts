/** What the network sees of a guest that has moved, or whose monitor asks: the frames of `emu`, and those of stock QEMU. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { embeddedGuestImage } from '@ferryvm/embedded-guest'
import { StreamNet } from '@ferryvm/netdev/node'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { QmpClient } from '../apps/emu/src/qmp-client.ts'
import { type EmuProcess, emu } from './harness/emu.ts'
import { startStockQemu, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const missing = stockQemuMissing()
const MAC = '52:54:00:0a:0b:0c'
const patience = { timeout: 60_000, interval: 20 }
const announcement = `ffffffffffff5254000a0b0c80350001080006040003${'5254000a0b0c00000000'.repeat(2)}`

let folder: string
let kernel: string
let wall: StreamNet
let heard: string[]
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ferry-announce-'))
  kernel = join(folder, 'guest.bin')
  writeFileSync(kernel, embeddedGuestImage({ dirtyBytes: 1 << 20 }))
  wall = await StreamNet.open({ address: { host: '127.0.0.1', port: 0 }, server: true })
  heard = []
  wall.onReceive((frame) => void heard.push(Buffer.from(frame).toString('hex')))
})
afterEach(async () => {
  await wall.close()
  rmSync(folder, { recursive: true, force: true })
})

const machine = (netdev: string) => [
  ...['-M', 'virt', '-m', '32M', '-bios', 'none', '-kernel', kernel],
  ...['-netdev', netdev, '-device', `virtio-net-pci,id=card,netdev=n,mac=${MAC}`],
]
const plugged = () => `socket,id=n,connect=127.0.0.1:${wall.port}`
const times = { initial: 0, max: 5, rounds: 3, step: 1 }

it('a guest that arrives is announced in as many frames as the destination was told', {
  timeout: 180_000,
}, async () => {
  const processes: EmuProcess[] = []
  const start = async (name: string, netdev: string, more: string[] = []) => {
    const qmp = join(folder, name)
    processes.push(emu(['run', ...machine(netdev), '-nographic', '-qmp', `unix:${qmp},server=on,wait=off`, ...more]))
    return await QmpClient.connect(qmp, 60_000)
  }
  try {
    const source = await start('source', 'hubport,id=n,hubid=0')
    const uri = `unix:${join(folder, 'ram')}`
    const destination = await start('destination', plugged(), ['-incoming', 'defer'])
    const parameters = Object.entries(times).map(([name, value]) => [`announce-${name}`, value])
    await destination.execute('migrate-set-parameters', Object.fromEntries(parameters))
    await destination.execute('migrate-incoming', { uri })
    expect(heard).toEqual([])
    await source.execute('migrate', { uri })
    await vi.waitFor(() => expect(heard).toHaveLength(3), patience)
    await destination.execute('announce-self', { ...times, rounds: 1, interfaces: ['card'] })
    await vi.waitFor(() => expect(heard).toHaveLength(4), patience)
    await destination.execute('announce-self', { ...times, interfaces: ['another'] })
    expect(new Set(heard)).toEqual(new Set([announcement.padEnd(120, '0')]))
    for (const client of [source, destination]) client.close()
  } finally {
    for (const { child } of processes) child.kill('SIGKILL')
    await Promise.all(processes.map(({ exited }) => exited))
  }
})

it.skipIf(missing)(
  `they are the frames of stock QEMU${missing ? ` (skipped: ${missing})` : ''}`,
  { timeout: 180_000 },
  async () => {
    const stock = await startStockQemu(folder, machine(plugged()), () => {})
    try {
      await stock.qmp('announce-self', times)
      await vi.waitFor(() => expect(heard).toHaveLength(3), patience)
      expect(new Set(heard)).toEqual(new Set([announcement.padEnd(120, '0')]))
    } finally {
      await stock.kill()
    }
  },
)
