import { parentPort, workerData } from 'node:worker_threads'
import { HartState } from '../hart/hart-state.ts'
import { MmioClient } from './mailbox.ts'

/** A hart's thread that only does MMIO: `count` reads of 0x1000.., each followed by a write of what it read plus one. */
const { buffer, base, doorbell, index, count, pauseMs } = workerData as {
  buffer: SharedArrayBuffer
  base: number
  doorbell: Int32Array<SharedArrayBuffer>
  index: number
  count: number
  pauseMs: number
}
const client = new MmioClient(new HartState(buffer, base, index), doorbell)
const sleeper = new Int32Array(new SharedArrayBuffer(4))
const begin = performance.now()
let failed = 0
for (let i = 0; i < count; i++) {
  if (!client.read(0x1000 + 8 * index, 8)) failed++
  if (!client.write(0x1000 + 8 * index, 8, client.value + 1n)) failed++
  if (pauseMs > 0) Atomics.wait(sleeper, 0, 0, pauseMs)
}
parentPort!.postMessage({
  failed,
  us: ((performance.now() - begin) * 1000) / (2 * count),
  nothing: client.read(0x9000, 4),
})
