/** What a virtio function calls itself. Spec: virtio 1.2, section 4.1.2; virt-machine.md section 6.8. */
import type { PciIdentity } from '@ferryvm/core'

const REDHAT_VIRTIO = 0x1af4
const MODERN_BASE = 0x1040
const MODERN_SUBSYSTEM = 0x1100
const CLASS_OTHER = 0x00ff

interface VirtioClass {
  readonly classCode: number
  /** Absent: the device type is younger than virtio 1.0 and has no transitional id. */
  readonly transitionalId?: number
}
/** By virtio device id. */
const CLASSES: Readonly<Record<number, VirtioClass>> = {
  1: { classCode: 0x0200, transitionalId: 0x1000 },
  2: { classCode: 0x0100, transitionalId: 0x1001 },
  3: { classCode: 0x0780, transitionalId: 0x1003 },
  4: { classCode: CLASS_OTHER, transitionalId: 0x1005 },
}

export const hasTransitionalId = (deviceId: number): boolean => CLASSES[deviceId]?.transitionalId !== undefined

export function virtioIdentity(deviceId: number, transitional: boolean): PciIdentity {
  const known = CLASSES[deviceId]
  const legacyId = transitional ? known?.transitionalId : undefined
  return {
    vendorId: REDHAT_VIRTIO,
    deviceId: legacyId ?? MODERN_BASE + deviceId,
    revision: legacyId === undefined ? 1 : 0,
    classCode: known?.classCode ?? CLASS_OTHER,
    subsystemVendorId: REDHAT_VIRTIO,
    subsystemId: legacyId === undefined ? MODERN_SUBSYSTEM : deviceId,
    interruptPin: 1,
  }
}
