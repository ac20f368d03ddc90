/**
 * A small bare-metal RISC-V guest that checks itself, as an image to load at 0x8000_0000 on the `virt` board, and the host's
 * half of the check. It walks memory, works a disk (through VT-d where there is one), computes in registers and counts lines;
 * asked for it, it says whether anything was lost or happened twice.
 *
 * ```ts
 * import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
 *
 * const image = embeddedGuestImage({ dirtyBytes: 8 << 20 })   // run it as -bios none -kernel
 * const monitor = createGuestMonitor({ onProblem: console.error })
 * console_.onData((chunk) => monitor.push(chunk))             // from the source, then from the destination
 * console_.write('q')                                         // the guest verifies everything and powers off
 * await monitor.until((m) => m.verdicts.length > 0, 60_000)
 * ```
 */
export { type EmbeddedGuestOptions, embeddedGuestEntry, embeddedGuestImage, GuestParameterError } from './image.ts'
export {
  createGuestMonitor,
  type GuestLine,
  type GuestMonitor,
  type GuestMonitorOptions,
  type GuestVerdict,
} from './monitor.ts'
