import { DeviceConfigError } from '@ferryvm/core'

export interface LoadableImage {
  readonly segments: readonly { readonly at: number; readonly bytes: Uint8Array }[]
  /** Lowest load address. */
  readonly start: number
  readonly end: number
  /** e_entry of an ELF file; equal to `start` for a raw image. */
  readonly entry: number
}

const isElf = (file: Uint8Array) => file[0] === 0x7f && file[1] === 0x45 && file[2] === 0x4c && file[3] === 0x46

/**
 * An ELF file by its program headers (physical addresses), anything else as raw bytes at `rawAddress`.
 * Spec: virt-machine.md section 4.
 * @throws DeviceConfigError an ELF file that is not little-endian RV64, or whose headers point outside the file
 */
export function loadImage(name: string, file: Uint8Array, rawAddress: number): LoadableImage {
  if (!isElf(file)) {
    return {
      segments: [{ at: rawAddress, bytes: file }],
      start: rawAddress,
      end: rawAddress + file.length,
      entry: rawAddress,
    }
  }
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const EM_RISCV = 243
  const PT_LOAD = 1
  if (file.length < 64 || file[4] !== 2 || file[5] !== 1 || view.getUint16(18, true) !== EM_RISCV) {
    throw new DeviceConfigError(name, 'is an ELF file, but not for little-endian RV64')
  }
  const entry = Number(view.getBigUint64(24, true))
  const headers = Number(view.getBigUint64(32, true))
  const headerBytes = view.getUint16(54, true)
  const count = view.getUint16(56, true)
  if (headerBytes < 56 || headers + count * headerBytes > file.length) {
    throw new DeviceConfigError(name, `its ${count} program headers at offset ${headers} do not lie within the file`)
  }
  const segments: { at: number; bytes: Uint8Array }[] = []
  for (let i = 0; i < count; i++) {
    const h = headers + i * headerBytes
    if (view.getUint32(h, true) !== PT_LOAD) continue
    const offset = Number(view.getBigUint64(h + 8, true))
    const at = Number(view.getBigUint64(h + 24, true))
    const fileBytes = Number(view.getBigUint64(h + 32, true))
    const memoryBytes = Number(view.getBigUint64(h + 40, true))
    if (offset + fileBytes > file.length) {
      throw new DeviceConfigError(
        name,
        `program header ${i} wants ${fileBytes} bytes at offset ${offset} of a file of ${file.length}`,
      )
    }
    if (memoryBytes > 2 ** 31 || memoryBytes < fileBytes) {
      throw new DeviceConfigError(name, `program header ${i} has a memory size of ${memoryBytes} bytes`)
    }
    const bytes = new Uint8Array(memoryBytes)
    bytes.set(file.subarray(offset, offset + fileBytes))
    if (memoryBytes > 0) segments.push({ at, bytes })
  }
  if (segments.length === 0) throw new DeviceConfigError(name, 'has nothing to load')
  const start = Math.min(...segments.map((s) => s.at))
  const end = Math.max(...segments.map((s) => s.at + s.bytes.length))
  return { segments, start, end, entry }
}
