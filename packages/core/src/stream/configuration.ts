import { StreamTruncatedError } from '../errors/stream-error.ts'
import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import type { VmstateDescription } from '../vmstate/description.ts'
import { Element } from './element.ts'
import { ConfigurationError, printable } from './stream-errors.ts'

/** What both machines must agree on before any device is loaded. Spec: stream.md section 3. */
export interface StreamConfiguration {
  /** Machine type, without "-machine". */
  readonly machineName: string
  /** Default 12. */
  readonly targetPageBits?: number
  /** The fewest page bits that this CPU target can have; the subsection is sent when there are more. Default 12. */
  readonly minimumPageBits?: number
  /** Capabilities that change the format and so must be equal on both sides, by name. */
  readonly validatedCapabilities?: Readonly<Record<string, boolean>>
  /** 16 bytes. Sent only with {@link sendUuid}; compared whenever it arrives. */
  readonly uuid?: Uint8Array
  /** Capability `validate-uuid`. */
  readonly sendUuid?: boolean
}

const MAX_NAME_BYTES = 255
const MAX_CAPABILITIES = 256
const hex = (bytes: Uint8Array) => [...bytes].map((b) => b.toString(16).padStart(2, '0')).join('')

/** @returns the section's entry in the stream's JSON description */
export function saveConfiguration(f: QEMUFileWriter, c: StreamConfiguration): VmstateDescription {
  f.putByte(Element.CONFIGURATION)
  const name = new TextEncoder().encode(c.machineName)
  f.putBe32(name.length)
  f.putBuffer(name)
  const subsections: VmstateDescription[] = []
  const subsection = (id: string, fields: [name: string, type: string, size: number][], put: () => void) => {
    f.putByte(Element.SUBSECTION)
    f.putStr8(`configuration/${id}`)
    f.putBe32(1)
    put()
    subsections.push({
      vmsd_name: `configuration/${id}`,
      version: 1,
      fields: fields.map(([field, type, size]) => ({ name: field, type, size })),
    })
  }
  const bits = c.targetPageBits ?? 12
  if (bits > (c.minimumPageBits ?? 12)) {
    subsection('target-page-bits', [['target_page_bits', 'uint32', 4]], () => f.putBe32(bits))
  }
  const enabled = Object.entries(c.validatedCapabilities ?? {}).flatMap(([id, on]) => (on ? [id] : []))
  if (enabled.length > 0) {
    const sizes = enabled.reduce((sum, id) => sum + 1 + id.length, 0)
    subsection(
      'capabilities',
      [
        ['caps_count', 'uint32', 4],
        ['capabilities', 'capability', sizes],
      ],
      () => {
        f.putBe32(enabled.length)
        for (const id of enabled) f.putStr8(id)
      },
    )
  }
  if (c.sendUuid && c.uuid) subsection('uuid', [['uuid', 'uuid', 16]], () => f.putBuffer(c.uuid!))
  return {
    vmsd_name: 'configuration',
    version: 1,
    fields: [
      { name: 'len', type: 'uint32', size: 4 },
      { name: 'name', type: 'buffer', size: name.length },
    ],
    subsections: subsections.length > 0 ? subsections : undefined,
  }
}

/**
 * The byte 0x07 has been taken.
 * @throws ConfigurationError the sender's machine is not ours
 */
export async function loadConfiguration(
  f: QEMUFileReader,
  local: StreamConfiguration,
  warn: (message: string) => void,
): Promise<void> {
  await need(f, 4)
  const length = f.getBe32()
  const ours = new TextEncoder().encode(local.machineName)
  if (length === 0 || length > MAX_NAME_BYTES) {
    throw new ConfigurationError('len', `a machine name of ${length} bytes`, f.position)
  }
  await need(f, length)
  const theirs = new Uint8Array(length)
  f.getBuffer(theirs)
  // The reference compares only as many bytes as arrived, so a prefix of our name is accepted.
  if (length > ours.length || theirs.some((b, i) => b !== ours[i])) {
    const name = printable(new TextDecoder().decode(theirs))
    throw new ConfigurationError(
      'name',
      `the sender is a "${name}", this machine is a "${local.machineName}"`,
      f.position,
    )
  }

  let pageBits = local.minimumPageBits ?? 12
  const enabled = new Set<string>()
  for (;;) {
    await f.fill(1)
    if (f.peekByte() !== Element.SUBSECTION) break
    f.getByte()
    const id = await str8(f)
    const at = f.position
    await need(f, 4)
    const version = f.getBe32()
    if (version > 1) throw new ConfigurationError(printable(id), `version ${version}; this build reads 1`, at)
    if (id === 'configuration/target-page-bits') {
      await need(f, 4)
      pageBits = f.getBe32()
    } else if (id === 'configuration/capabilities') {
      await need(f, 4)
      const count = f.getBe32()
      if (count > MAX_CAPABILITIES) throw new ConfigurationError('capabilities', `${count} names`, at)
      for (let i = 0; i < count; i++) {
        const name = await str8(f)
        if (!Object.hasOwn(local.validatedCapabilities ?? {}, name)) {
          throw new ConfigurationError('capabilities', `"${printable(name)}" is not known here`, f.position)
        }
        enabled.add(name)
      }
    } else if (id === 'configuration/uuid') {
      await need(f, 16)
      const uuid = new Uint8Array(16)
      f.getBuffer(uuid)
      if (!local.uuid) warn('the sender has a UUID, this machine has none')
      else if (uuid.some((b, i) => b !== local.uuid![i])) {
        throw new ConfigurationError('uuid', `the sender is ${hex(uuid)}, this machine ${hex(local.uuid)}`, at)
      }
    } else {
      throw new ConfigurationError(printable(id), 'unknown subsection', at)
    }
  }
  const wanted = local.targetPageBits ?? 12
  if (pageBits !== wanted) {
    throw new ConfigurationError(
      'target-page-bits',
      `the sender's pages have ${pageBits} bits, ours ${wanted}`,
      f.position,
    )
  }
  const different = Object.entries(local.validatedCapabilities ?? {}).filter(([id, on]) => on !== enabled.has(id))
  if (different.length > 0) {
    const list = different.map(([id, on]) => `${id} is ${on ? 'on' : 'off'} here and ${on ? 'off' : 'on'} there`)
    throw new ConfigurationError('capabilities', list.join(', '), f.position)
  }
}

async function str8(f: QEMUFileReader): Promise<string> {
  await need(f, 1)
  const bytes = new Uint8Array(f.getByte())
  await need(f, bytes.length)
  f.getBuffer(bytes)
  return new TextDecoder().decode(bytes)
}

/** @throws StreamTruncatedError the stream ends before that many bytes */
export async function need(f: QEMUFileReader, bytes: number): Promise<void> {
  if (f.available >= bytes) return
  await f.fill(bytes)
  if (f.available < bytes) throw new StreamTruncatedError(f.position, bytes, f.available)
}
