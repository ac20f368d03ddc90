import { DeviceConfigError } from '@ferryvm/core'
import type { BootImage, ImageSource } from '@ferryvm/machine'
import { type FileSource, loadImage, wholeFile } from './elf.ts'
import { VIRT_PROFILES, type VirtProfile } from './profile.ts'

export const RAM_BASE = 0x8000_0000
const MiB = 1024 * 1024
const alignUp = (n: number, to: number) => Math.ceil(n / to) * to
const alignDown = (n: number, to: number) => Math.floor(n / to) * to

export interface BootFiles {
  /** Firmware; absent: none (the kernel starts in M-mode at the start of RAM). */
  readonly bios?: Uint8Array | FileSource
  readonly kernel?: Uint8Array | FileSource
  readonly initrd?: Uint8Array | FileSource
  readonly append?: string
}

export interface BootPlan {
  readonly images: readonly BootImage[]
  /** Where the reset vector jumps. */
  readonly start: number
  /** What fw_dynamic starts next; 0 without a kernel. */
  readonly next: number
  readonly initrd?: { readonly start: number; readonly end: number }
  /** Address for a device tree of so many bytes. @throws DeviceConfigError it would overlap kernel or initrd */
  deviceTreeAt(sizeBytes: number): number
}

/**
 * Where firmware, kernel, initrd and device tree go. Spec: virt-machine.md sections 3 and 4.
 * @throws DeviceConfigError something does not fit into RAM
 */
export function planBoot(files: BootFiles, ramBytes: number, profile: VirtProfile): BootPlan {
  const facts = VIRT_PROFILES[profile]
  const ramEnd = RAM_BASE + ramBytes
  const images: BootImage[] = []
  const place = (name: string, at: number, source: ImageSource) => {
    if (at < RAM_BASE || at + source.sizeBytes > ramEnd) {
      const wanted = `0x${at.toString(16)} to 0x${(at + source.sizeBytes).toString(16)}`
      throw new DeviceConfigError(
        name,
        `needs ${wanted}; RAM is 0x${RAM_BASE.toString(16)} to 0x${ramEnd.toString(16)}`,
      )
    }
    images.push({ name, at, bytes: source })
  }

  let start = RAM_BASE
  let firmwareEnd = RAM_BASE
  if (files.bios) {
    const bios = loadImage('-bios', files.bios, RAM_BASE)
    for (const s of bios.segments) place('-bios', s.at, s.source)
    firmwareEnd = bios.end
    if (facts.startsAtEntry) start = bios.entry
  }

  let next = 0
  let kernelEnd = firmwareEnd
  let initrd: BootPlan['initrd']
  if (files.kernel) {
    const kernel = loadImage('-kernel', files.kernel, files.bios ? alignUp(firmwareEnd, 2 * MiB) : RAM_BASE)
    for (const s of kernel.segments) place('-kernel', s.at, s.source)
    next = kernel.start
    kernelEnd = kernel.end
    if (files.initrd) {
      const at = next + Math.min(ramBytes / 2, facts.initrdOffsetBytes)
      const image = wholeFile(files.initrd)
      place('-initrd', at, image)
      initrd = { start: at, end: at + image.sizeBytes }
    }
  } else if (files.initrd || files.append !== undefined) {
    throw new DeviceConfigError(files.initrd ? '-initrd' : '-append', 'needs -kernel')
  }

  return {
    images,
    start,
    next,
    initrd,
    deviceTreeAt(sizeBytes) {
      const THREE_GIB = 0xc000_0000
      const room = facts.deviceTreeRoomBytes
      const at = room ? alignDown(Math.min(ramEnd, THREE_GIB) - room, 2 * MiB) : alignDown(ramEnd - sizeBytes, 2 * MiB)
      const lowest = Math.max(kernelEnd, initrd?.end ?? 0)
      if (at < lowest || at + sizeBytes > ramEnd) {
        throw new DeviceConfigError(
          '-m',
          `${ramBytes} bytes of RAM are too few: the device tree (0x${at.toString(16)}) would overlap what ends at 0x${lowest.toString(16)}`,
        )
      }
      return at
    },
  }
}
