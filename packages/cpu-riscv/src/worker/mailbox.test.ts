import { Worker } from 'node:worker_threads'
import { GuestMemory, PhysicalMap } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { HartState } from '../hart/hart-state.ts'
import { hartAreaBytes } from '../hart/layout.ts'
import { MmioServer } from './mailbox.ts'

function setUp(harts: number) {
  const memory = new GuestMemory()
  const map = new PhysicalMap(memory)
  const bases = Array.from({ length: harts }, () => memory.allocate(hartAreaBytes(0)))
  const states = bases.map((base, index) => new HartState(memory.buffer, base, index))
  const doorbell = new Int32Array(new SharedArrayBuffer(4))
  const errors: unknown[] = []
  const server = new MmioServer(states, doorbell, map, (error) => errors.push(error))
  const run = (index: number, count: number, pauseMs = 0) =>
    new Promise<{ failed: number; us: number; nothing: boolean }>((resolve, reject) => {
      const workerData = { buffer: memory.buffer, base: bases[index], doorbell, index, count, pauseMs }
      const worker = new Worker(new URL('./mailbox-testing-worker.ts', import.meta.url), { workerData })
      worker.once('message', resolve)
      worker.once('error', reject)
    })
  return { map, server, run, errors }
}

describe('MMIO mailbox', () => {
  it('every access of every hart happens exactly once', async () => {
    const { map, server, run } = setUp(2)
    const cells = [0n, 0n]
    let writes = 0
    map.addMmio(
      0x1000,
      16,
      {
        read: () => 0,
        write: () => {},
        read64: (offset) => cells[offset / 8],
        write64(offset, value) {
          writes++
          cells[offset / 8] = value
        },
      },
      'cells',
    )
    const results = await Promise.all([run(0, 3000), run(1, 500, 0.2)])
    expect(results.map((r) => r.failed)).toEqual([0, 0])
    // 0x9000 is nobody's.
    expect(results.map((r) => r.nothing)).toEqual([false, false])
    expect(cells).toEqual([3000n, 500n])
    expect(writes).toBe(3500)
    server.close()
  })

  it('lets the event loop turn while a hart keeps it busy', async () => {
    const { map, server, run } = setUp(1)
    map.addMmio(0x1000, 8, { read: () => 0, write: () => {}, read64: () => 0n, write64: () => {} }, 'cell')
    let ticks = 0
    const timer = setInterval(() => ticks++, 2)
    const done = run(0, 60_000)
    await done
    clearInterval(timer)
    server.close()
    expect(ticks).toBeGreaterThan(5)
  })

  it('a device that throws is reported, and the access is a fault', async () => {
    const { map, server, run, errors } = setUp(1)
    map.addMmio(
      0x1000,
      8,
      {
        read: () => {
          throw new Error('broken')
        },
        write: () => {},
      },
      'broken',
    )
    const { failed } = await run(0, 1)
    expect(failed).toBe(1)
    expect(String(errors[0])).toContain('broken')
    server.close()
  })
})
