import type { PhysicalMap } from '@ferryvm/core'
import { parseDeviceTree } from '@ferryvm/devices-virt'

/** Word of the boot ROM that holds the device tree's address. Spec: virt-machine.md section 3. */
const TREE_ADDRESS = 0x1020
const FDT_MAGIC = 0xd00dfeed
const MAX_TREE_BYTES = 2 ** 21

/**
 * The ISA string of the device tree that this guest was booted with, whichever machine that was on; undefined when the
 * guest has overwritten it.
 */
export function toldIsa(map: PhysicalMap): string | undefined {
  const pointer = new DataView(new ArrayBuffer(8))
  if (!map.read(TREE_ADDRESS, new Uint8Array(pointer.buffer))) return undefined
  const at = Number(pointer.getBigUint64(0, true))
  const header = new DataView(new ArrayBuffer(8))
  if (!map.read(at, new Uint8Array(header.buffer)) || header.getUint32(0) !== FDT_MAGIC) return undefined
  const size = header.getUint32(4)
  if (size > MAX_TREE_BYTES) return undefined
  const blob = new Uint8Array(size)
  if (!map.read(at, blob)) return undefined
  try {
    const isa = parseDeviceTree(blob).children.cpus?.children['cpu@0']?.properties['riscv,isa']
    return isa && new TextDecoder().decode(isa).replace(/\0.*$/s, '')
  } catch {
    return undefined // whatever lies there now, it is no device tree
  }
}
