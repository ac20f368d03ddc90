/** Formats by the first bytes of a file. */
export type ImageFormat = 'raw' | 'qcow2'
export const IMAGE_FORMATS: readonly ImageFormat[] = ['raw', 'qcow2']

interface Signature {
  readonly format: string
  readonly at: number
  readonly bytes: readonly number[]
}
const ascii = (text: string) => [...text].map((c) => c.charCodeAt(0))

const SIGNATURES: readonly Signature[] = [
  { format: 'qcow2', at: 0, bytes: [...ascii('QFI'), 0xfb, 0, 0, 0, 2] },
  { format: 'qcow2', at: 0, bytes: [...ascii('QFI'), 0xfb, 0, 0, 0, 3] },
  { format: 'qcow', at: 0, bytes: [...ascii('QFI'), 0xfb, 0, 0, 0, 1] },
  { format: 'qed', at: 0, bytes: [...ascii('QED'), 0] },
  { format: 'luks', at: 0, bytes: [...ascii('LUKS'), 0xba, 0xbe] },
  { format: 'vmdk', at: 0, bytes: ascii('KDMV') },
  { format: 'vmdk', at: 0, bytes: ascii('COWD') },
  { format: 'vmdk', at: 0, bytes: ascii('# Disk DescriptorFile') },
  { format: 'vhdx', at: 0, bytes: ascii('vhdxfile') },
  { format: 'vpc', at: 0, bytes: ascii('conectix') },
  { format: 'vdi', at: 64, bytes: [0x7f, 0x10, 0xda, 0xbe] },
  { format: 'parallels', at: 0, bytes: ascii('WithoutFreeSpace') },
  { format: 'parallels', at: 0, bytes: ascii('WithouFreSpacExt') },
]

/** Bytes that {@link probeFormat} looks at. */
export const PROBE_BYTES = 512

/** @returns a name as stock QEMU has it, not only of formats that can be opened here; `raw` if it looks like none */
export function probeFormat(start: Uint8Array): string {
  const found = SIGNATURES.find(({ at, bytes }) => bytes.every((byte, i) => start[at + i] === byte))
  return found?.format ?? 'raw'
}
