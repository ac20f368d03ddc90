import { bufferWriter, PAGE_BYTES, type QEMUFileWriter, type StreamSaver, setGlobalRunState } from '@ferryvm/core'
import type { MigrationContext } from '../context.ts'
import { trace } from '../migration-trace.ts'
import type { MemoryMoment } from './memory-moment.ts'

export interface BackgroundParts {
  readonly context: MigrationContext
  readonly moment: MemoryMoment
  readonly signal: AbortSignal
  /** The main stream, whose setup has been written. */
  readonly saver: StreamSaver
  readonly f: QEMUFileWriter
  /** The guest goes on, after it stood for so long. */
  resumed(ms: number): void
  /** Keeps to the bandwidth. @returns whether it is time to write */
  mayWrite(): Promise<boolean>
}

/**
 * Saves the machine as it is now: what devices hold at once, into a buffer, and memory while the guest goes on. The buffer
 * follows the memory. Disks are not part of it.
 * @throws what a device or the channel throws; the guest runs, if it ran
 */
export async function saveInBackground(parts: BackgroundParts): Promise<void> {
  const { context, moment, signal, saver, f } = parts
  const { machine, ramSaver } = context
  const devices = bufferWriter()
  const { runState } = machine
  const beganMs = performance.now()
  setGlobalRunState(context.globalState, runState)
  if (runState === 'running') await machine.stop('save-vm')
  try {
    saver.redirect(devices)
    await saver.saveDevices()
    saver.end()
    saver.redirect(f)
    moment.take(ramSaver.blocks)
    for (const { idstr, offset, sizeBytes } of ramSaver.blocks) {
      trace.ram_write_tracking_ramblock_start({
        block_id: idstr,
        page_size: PAGE_BYTES,
        addr: offset,
        length: sizeBytes,
      })
    }
    await machine.cpu.flushWriteTlb()
  } finally {
    // Whoever changed the run state meanwhile has the last word.
    if (machine.runState === 'save-vm') machine.start()
  }
  parts.resumed(performance.now() - beganMs)
  while (ramSaver.remainingBytes > 0) {
    signal.throwIfAborted()
    if (await parts.mayWrite()) await saver.iterate()
  }
  await ramSaver.end()
  for (const { idstr, offset, sizeBytes } of ramSaver.blocks) {
    trace.ram_write_tracking_ramblock_stop({ block_id: idstr, page_size: PAGE_BYTES, addr: offset, length: sizeBytes })
  }
  moment[Symbol.dispose]()
  f.putBufferAsync(devices.bytes())
  await f.flush()
}
