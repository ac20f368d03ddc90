import { DeviceConfigError } from '@ferryvm/core'
import type { ImageSource } from '@ferryvm/machine'

/** A file that is read again whenever the machine is reset, instead of being held. */
export interface FileSource {
  readonly sizeBytes: number
  /** Fills the target from an offset of the file. @throws it is not what it was */
  read(offset: number, target: Uint8Array): void
}

export interface LoadableImage {
  readonly segments: readonly { readonly at: number; readonly source: ImageSource }[]
  /** Lowest load address. */
  readonly start: number
  readonly end: number
  /** e_entry of an ELF file; equal to `start` for a raw image. */
  readonly entry: number
}

/** Of a file that is in memory. */
const held = (bytes: Uint8Array): FileSource => ({
  sizeBytes: bytes.length,
  read: (offset, target) => target.set(bytes.subarray(offset, offset + target.length)),
})

/** A file as it is. */
export function wholeFile(content: Uint8Array | FileSource): ImageSource {
  const file = content instanceof Uint8Array ? held(content) : content
  return { sizeBytes: file.sizeBytes, readInto: (target) => file.read(0, target) }
}

const ELF_HEADER_BYTES = 64
const isElf = (file: Uint8Array) => file[0] === 0x7f && file[1] === 0x45 && file[2] === 0x4c && file[3] === 0x46

/**
 * An ELF file by its program headers (physical addresses), anything else as raw bytes at `rawAddress`.
 * Spec: virt-machine.md section 4.
 * @throws DeviceConfigError an ELF file that is not little-endian RV64, or whose headers point outside the file
 */
export function loadImage(name: string, content: Uint8Array | FileSource, rawAddress: number): LoadableImage {
  const file = content instanceof Uint8Array ? held(content) : content
  const part = (offset: number, bytes: number): Uint8Array => {
    const target = new Uint8Array(bytes)
    file.read(offset, target)
    return target
  }
  const header = part(0, Math.min(ELF_HEADER_BYTES, file.sizeBytes))
  if (!isElf(header)) {
    return {
      segments: [{ at: rawAddress, source: wholeFile(file) }],
      start: rawAddress,
      end: rawAddress + file.sizeBytes,
      entry: rawAddress,
    }
  }
  const view = new DataView(header.buffer)
  const EM_RISCV = 243
  const PT_LOAD = 1
  if (header.length < ELF_HEADER_BYTES || header[4] !== 2 || header[5] !== 1 || view.getUint16(18, true) !== EM_RISCV) {
    throw new DeviceConfigError(name, 'is an ELF file, but not for little-endian RV64')
  }
  const entry = Number(view.getBigUint64(24, true))
  const headers = Number(view.getBigUint64(32, true))
  const headerBytes = view.getUint16(54, true)
  const count = view.getUint16(56, true)
  if (headerBytes < 56 || headers + count * headerBytes > file.sizeBytes) {
    throw new DeviceConfigError(name, `its ${count} program headers at offset ${headers} do not lie within the file`)
  }
  const table = new DataView(part(headers, count * headerBytes).buffer)
  const segments: { at: number; source: ImageSource }[] = []
  for (let i = 0; i < count; i++) {
    const h = i * headerBytes
    if (table.getUint32(h, true) !== PT_LOAD) continue
    const offset = Number(table.getBigUint64(h + 8, true))
    const at = Number(table.getBigUint64(h + 24, true))
    const fileBytes = Number(table.getBigUint64(h + 32, true))
    const memoryBytes = Number(table.getBigUint64(h + 40, true))
    if (offset + fileBytes > file.sizeBytes) {
      throw new DeviceConfigError(
        name,
        `program header ${i} wants ${fileBytes} bytes at offset ${offset} of a file of ${file.sizeBytes}`,
      )
    }
    if (memoryBytes > 2 ** 31 || memoryBytes < fileBytes) {
      throw new DeviceConfigError(name, `program header ${i} has a memory size of ${memoryBytes} bytes`)
    }
    const readInto = (target: Uint8Array): void => {
      file.read(offset, target.subarray(0, fileBytes))
      target.fill(0, fileBytes)
    }
    if (memoryBytes > 0) segments.push({ at, source: { sizeBytes: memoryBytes, readInto } })
  }
  if (segments.length === 0) throw new DeviceConfigError(name, 'has nothing to load')
  const start = Math.min(...segments.map((s) => s.at))
  const end = Math.max(...segments.map((s) => s.at + s.source.sizeBytes))
  return { segments, start, end, entry }
}
