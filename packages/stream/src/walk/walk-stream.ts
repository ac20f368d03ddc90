import {
  COMMANDS,
  commandName,
  Element,
  STREAM_MAGIC,
  STREAM_VERSION,
  type Vmstate,
  type VmstateDescription,
} from '@ferryvm/core'
import {
  bytesOf,
  type DeviceDescription,
  endsWithDescription,
  findDescription,
  isPageSize,
  MAX_DESCRIPTION_BYTES,
  parseDescription,
  type StreamDescription,
} from '../description/stream-description.ts'
import type { ByteSource } from '../source/byte-source.ts'
import { StreamCursor } from '../source/stream-cursor.ts'
import { type VirtioLayoutFacts, virtioLayout } from '../state/virtio-layout.ts'
import { defaultBounds, type WalkBounds } from './bounds.ts'
import { decodeName, printable, RamWalk, WalkStop } from './ram-walk.ts'
import { layoutByTable, type SectionIdentity, type TableLookup } from './tables.ts'
import type {
  ConfigurationElement,
  LayoutSource,
  SectionHeader,
  SectionKind,
  StateElement,
  StreamProblem,
  StreamVisitor,
} from './visitor.ts'

export interface WalkOptions {
  /** For sections that no description covers. */
  readonly tables?: TableLookup
  /** Bytes done, and in all where that is known; at most once per 256 KiB. */
  readonly progress?: (position: number, size: number | undefined) => void
  /**
   * The sender may wait for an answer when it has sent everything: nothing is awaited behind the description. For sockets; a
   * pipe or file ends, and what follows the stream in it is worth a word.
   */
  readonly live?: boolean
  /** Bytes of a guest page, where neither description nor configuration says it. Default 4096. */
  readonly pageBytes?: number
  readonly bounds?: Partial<WalkBounds>
  readonly signal?: AbortSignal
}

/** What the walk waits for: bytes that must be available (or the end), or something that is loaded. */
type Wait = number | Promise<unknown>

const KINDS: Readonly<Record<number, SectionKind>> = {
  [Element.SECTION_START]: 'start',
  [Element.SECTION_PART]: 'part',
  [Element.SECTION_END]: 'end',
  [Element.SECTION_FULL]: 'full',
}
/** A footer, and enough of what follows it to tell whether an element begins there. */
const NEXT_ELEMENT_BYTES = 5 + 16
/** Ends of a seekable source are looked at in steps of this. */
const TAIL_BYTES = [1 << 17, 1 << 20, 1 << 25]

/**
 * Reads a stream from its magic to its last byte and tells the visitor what it meets. What is wrong is told, too; it
 * does not throw for it. Memory is constant but for one section's payload. A seekable source is looked at from the end
 * first, where the description is; of others, what follows RAM is buffered until it ends (both within bounds).
 */
export async function walkStream(source: ByteSource, visitor: StreamVisitor, options: WalkOptions = {}): Promise<void> {
  const description = await describedAtEnd(source)
  const cursor = new StreamCursor(source)
  const steps = new ElementWalk(cursor, visitor, options, source.size, description).run()
  for (;;) {
    options.signal?.throwIfAborted()
    const step = steps.next()
    const settled = visitor.settle?.()
    if (settled !== undefined) await settled
    if (step.done) return
    const filled = typeof step.value === 'number' ? cursor.fill(step.value) : step.value
    if (filled !== undefined) await filled
  }
}

async function describedAtEnd({ size, readAt, bytes }: ByteSource): Promise<StreamDescription | undefined> {
  if (size === undefined || !readAt) return undefined
  for (const step of TAIL_BYTES) {
    const length = Math.min(step, size)
    const tail = bytes?.subarray(size - length) ?? new Uint8Array(length)
    for (let done = bytes ? length : 0; done < length; ) {
      const count = await readAt(tail.subarray(done), size - length + done)
      if (count === 0) break
      done += count
    }
    const at = findDescription(tail)
    if (at >= 0) return parseDescription(decodeName(tail.subarray(at + 5, at + 5 + MAX_DESCRIPTION_BYTES)))
    if (length === size) break
  }
  return undefined
}

/** More sections than any machine has. */
const MAX_EARLIER = 4096

class ElementWalk {
  readonly #cursor: StreamCursor
  readonly #visitor: StreamVisitor
  readonly #options: WalkOptions
  readonly #bounds: WalkBounds
  readonly #size: number | undefined
  readonly #ram: RamWalk
  readonly #live = new Map<number, SectionHeader>()
  #description: StreamDescription | undefined
  /** Devices of the description, by name and instance, in its order. */
  readonly #described = new Map<string, DeviceDescription[]>()
  #lookedAhead: boolean
  #footers: boolean | undefined
  #sections = 0
  #harts = 0
  readonly #earlier = new Set<string>()
  #machine: string | undefined
  #previous = ''
  #section: SectionHeader | undefined

  constructor(
    cursor: StreamCursor,
    visitor: StreamVisitor,
    options: WalkOptions,
    size: number | undefined,
    description: StreamDescription | undefined,
  ) {
    this.#cursor = cursor
    this.#visitor = visitor
    this.#options = options
    this.#bounds = { ...defaultBounds, ...options.bounds }
    this.#size = size
    this.#ram = new RamWalk(cursor, visitor, this.#bounds)
    this.#ram.pageBytes = options.pageBytes ?? 4096
    this.#ram.live = options.live ?? false
    this.#lookedAhead = description !== undefined
    if (description) this.#describe(description)
  }

  *run(): Generator<Wait, void> {
    try {
      yield* this.#head()
      const ended = yield* this.#elements(Number.POSITIVE_INFINITY, false)
      if (ended) yield* this.#afterEnd()
    } catch (error) {
      if (!(error instanceof WalkStop)) throw error
      const { offset, message, expected } = error
      this.#report({ offset, message, expected, fatal: true })
    }
    this.#options.progress?.(this.#cursor.position, this.#size)
  }

  #describe(description: StreamDescription): void {
    this.#description = description
    if (description.pageBytes && this.#options.pageBytes === undefined) this.#ram.pageBytes = description.pageBytes
    for (const device of description.devices) {
      const key = `${device.name}\0${device.instanceId}`
      const queue = this.#described.get(key)
      if (queue) queue.push(device)
      else this.#described.set(key, [device])
    }
  }

  #report(problem: Omit<StreamProblem, 'section'>): void {
    const section = this.#section && `${printable(this.#section.idstr)}/${this.#section.instanceId}`
    const { expected, ...rest } = problem
    this.#visitor.problem?.({ ...rest, ...(expected && { expected }), ...(section && { section }) })
  }

  *#need(count: number, what: string): Generator<Wait, void> {
    const cursor = this.#cursor
    if (cursor.available >= count) return
    yield count
    if (cursor.available < count)
      throw new WalkStop(
        cursor.position,
        `the stream ends where ${what} should be`,
        `${count} bytes, ${cursor.available} are there`,
      )
  }

  *#head(): Generator<Wait, void> {
    const cursor = this.#cursor
    yield* this.#need(8, 'the header')
    if (cursor.u32() !== STREAM_MAGIC)
      throw new WalkStop(
        0,
        `this is no migration stream: it starts ${foreignFormat(cursor.peek(8)) ?? `with ${hex(cursor.peek(4))}`}`,
        '51 45 56 4d ("QEVM")',
      )
    if (cursor.u32(4) !== STREAM_VERSION)
      throw new WalkStop(4, `stream version ${cursor.u32(4)}`, `version ${STREAM_VERSION}`)
    this.#visitor.head?.(cursor.peek(8))
    cursor.start += 8
    yield 1
    if (cursor.available > 0 && cursor.u8() === Element.CONFIGURATION) yield* this.#configuration()
  }

  /** Spec: stream.md section 3. */
  *#configuration(): Generator<Wait, void> {
    const cursor = this.#cursor
    const offset = cursor.position
    yield* this.#need(5, 'the configuration')
    const length = cursor.u32(1)
    if (length > 4096) throw new WalkStop(offset + 1, `a machine name of ${length} bytes`, 'at most 4096')
    let size = 5 + length
    yield* this.#need(size, 'the machine name')
    const name = decodeName(cursor.peek(length, 5))
    const subsections: { name: string; version: number; payload: Uint8Array }[] = []
    for (;;) {
      yield size + 2
      if (cursor.available < size + 2 || cursor.u8(size) !== Element.SUBSECTION) break
      const nameLength = cursor.u8(size + 1)
      yield* this.#need(size + 6 + nameLength, 'a subsection of the configuration')
      const subName = decodeName(cursor.peek(nameLength, size + 2))
      const version = cursor.u32(size + 2 + nameLength)
      const at = size + 6 + nameLength
      const payloadBytes = yield* this.#configurationBytes(subName, at)
      yield* this.#need(at + payloadBytes, `subsection ${printable(subName)}`)
      const payload = cursor.peek(payloadBytes, at).slice()
      this.#configured(subName, payload)
      subsections.push({ name: subName, version, payload })
      size = at + payloadBytes
    }
    this.#machine = name
    const element: ConfigurationElement = { offset, name, subsections, bytes: cursor.peek(size).slice() }
    this.#visitor.configuration?.(element)
    cursor.start += size
  }

  *#configurationBytes(name: string, at: number): Generator<Wait, number> {
    const cursor = this.#cursor
    if (name === 'configuration/uuid') return 16
    if (name === 'configuration/target-page-bits') return 4
    if (name !== 'configuration/capabilities')
      throw new WalkStop(
        cursor.position + at,
        `subsection "${printable(name)}" of the configuration is unknown, and so is its length`,
        'configuration/target-page-bits, /capabilities or /uuid',
      )
    yield* this.#need(at + 4, 'the capabilities')
    const count = cursor.u32(at)
    if (count > 256) throw new WalkStop(cursor.position + at, `${count} capabilities`, 'at most 256')
    let bytes = 4
    for (let i = 0; i < count; i++) {
      yield* this.#need(at + bytes + 1, 'a capability')
      bytes += 1 + cursor.u8(at + bytes)
    }
    return bytes
  }

  #configured(name: string, payload: Uint8Array): void {
    if (name === 'configuration/target-page-bits') {
      const bytes = 2 ** new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0)
      if (isPageSize(bytes) && this.#options.pageBytes === undefined) this.#ram.pageBytes = bytes
    } else if (name === 'configuration/capabilities') {
      for (let at = 4; at < payload.length; at += 1 + payload[at]!) {
        const capability = decodeName(payload.subarray(at + 1, at + 1 + payload[at]!))
        if (capability === 'x-ignore-shared') this.#ram.ignoreShared = true
        else if (capability === 'mapped-ram') this.#ram.mappedRam = true
      }
    }
  }

  /** @returns whether the list ended with its EOF byte */
  *#elements(until: number, packaged: boolean): Generator<Wait, boolean> {
    const cursor = this.#cursor
    while (cursor.position < until) {
      this.#section = undefined
      yield* this.#need(1, packaged ? 'an element of the package' : `an element${this.#previous}`)
      const type = cursor.u8()
      if (type === Element.EOF) {
        this.#visitor.end?.(cursor.position)
        cursor.start++
        return true
      }
      if (type === Element.COMMAND) yield* this.#command(packaged)
      else if (KINDS[type]) yield* this.#anySection(KINDS[type], packaged)
      else
        throw new WalkStop(
          cursor.position,
          `byte 0x${type.toString(16)} starts no element${this.#previous}`,
          'section start 1, part 2, end 3, full 4, command 8 or end of stream 0',
        )
    }
    return false
  }

  *#command(packaged: boolean): Generator<Wait, void> {
    const cursor = this.#cursor
    const offset = cursor.position
    yield* this.#need(5, 'a command')
    const id = cursor.u16(1)
    const length = cursor.u16(3)
    yield* this.#need(5 + length, 'the payload of a command')
    const name = commandName(id)
    const payload = cursor.peek(length, 5).slice()
    this.#visitor.command?.({ offset, id, payload })
    const fixed = name && COMMANDS[name].length
    if (!name || (fixed !== undefined && fixed >= 0 && fixed !== length))
      this.#report({
        offset,
        message: name ? `command ${name} has ${length} bytes` : `command ${id} is unknown`,
        ...(name ? { expected: `${fixed} bytes` } : { expected: 'a command from 1 to 11' }),
        fatal: false,
      })
    this.#previous = ` after command ${name ?? id}`
    cursor.start += 5 + length
    if (name !== 'PACKAGED' || length !== 4) return
    if (packaged) throw new WalkStop(offset, 'a package inside of a package')
    const bytes = new DataView(payload.buffer).getUint32(0)
    this.#visitor.packaged?.(cursor.position, bytes)
    yield* this.#elements(cursor.position + bytes, true)
  }

  *#anySection(kind: SectionKind, packaged: boolean): Generator<Wait, void> {
    const cursor = this.#cursor
    const offset = cursor.position
    yield* this.#need(5, 'the header of a section')
    const sectionId = cursor.u32(1)
    if (kind === 'part' || kind === 'end') {
      const begun = this.#live.get(sectionId)
      if (!begun) throw new WalkStop(offset, `a ${kind} of section ${sectionId}, which never started`)
      const bytes = cursor.peek(5).slice()
      cursor.start += 5
      yield* this.#liveSection({ ...begun, kind, offset, packaged }, bytes)
      return
    }
    yield* this.#need(6, 'the name of a section')
    const length = cursor.u8(5)
    yield* this.#need(14 + length, 'the header of a section')
    const idstr = decodeName(cursor.peek(length, 6))
    const instanceId = cursor.u32(6 + length)
    const version = cursor.u32(10 + length)
    const header: SectionHeader = { kind, offset, sectionId, idstr, instanceId, version, packaged }
    this.#section = header
    if (length === 0) throw new WalkStop(offset, 'a section without a name')
    if (++this.#sections > this.#bounds.sections)
      throw new WalkStop(offset, `more than ${this.#bounds.sections} sections`)
    const bytes = cursor.peek(14 + length).slice()
    cursor.start += 14 + length
    if (kind === 'start') {
      this.#live.set(sectionId, header)
      yield* this.#liveSection(header, bytes)
    } else yield* this.#fullSection(header, bytes)
  }

  *#liveSection(header: SectionHeader, headerBytes: Uint8Array): Generator<Wait, void> {
    const cursor = this.#cursor
    this.#section = header
    const from = cursor.position
    this.#visitor.live?.(header, headerBytes)
    if (header.idstr === 'ram') {
      if (header.version !== 4) throw new WalkStop(from, `RAM of version ${header.version}`, 'version 4')
      yield* this.#ram.section(header, (position) => this.#options.progress?.(position, this.#size))
    } else {
      const bytes = yield* this.#bytesToFooter(header)
      this.#visitor.opaque?.(header, cursor.peek(bytes))
      cursor.start += bytes
    }
    const bytes = cursor.position - from
    const footer = yield* this.#footer(header)
    this.#visitor.liveEnd?.(header, bytes, footer)
    this.#previous = ` after section ${printable(header.idstr)}/${header.instanceId}`
  }

  /** Takes the footer. Streams of old machine types have none. Spec: stream.md section 5. */
  *#footer({ sectionId }: SectionHeader): Generator<Wait, boolean> {
    const cursor = this.#cursor
    if (this.#footers === false) return false
    yield 5
    const there = cursor.available >= 5 && cursor.u8() === Element.SECTION_FOOTER
    if (there && cursor.u32(1) === sectionId) {
      this.#footers = true
      cursor.start += 5
      return true
    }
    const offset = cursor.position
    if (cursor.available < 5) throw new WalkStop(offset, 'the stream ends where a section footer should be', '5 bytes')
    if (!there && this.#footers === undefined && (cursor.u8() <= 4 || cursor.u8() === Element.COMMAND)) {
      this.#footers = false
      return false
    }
    const message = there
      ? `the footer of section ${cursor.u32(1)}`
      : `${hex(cursor.peek(5))} where a section footer should be`
    const expected = `7e and section id ${sectionId}`
    yield NEXT_ELEMENT_BYTES
    if (cursor.available === 5 || !this.#elementAt(5)) throw new WalkStop(offset, message, expected)
    // Only the footer is wrong: where the next element begins is clear.
    this.#report({ offset, message, expected, fatal: false, damage: true })
    cursor.start += 5
    return true
  }

  *#fullSection(header: SectionHeader, headerBytes: Uint8Array): Generator<Wait, void> {
    const cursor = this.#cursor
    const payloadOffset = cursor.position
    yield* this.#lookAhead()
    const { layout, source, bytes } = yield* this.#layoutOf(header)
    const whole = layout && (yield* this.#withVirtio(header, layout, bytes))
    const state: StateElement = {
      header,
      headerBytes,
      payloadOffset,
      payload: cursor.peek(bytes),
      ...(whole && { layout: whole }),
      layoutSource: source,
    }
    cursor.start += bytes
    const footer = yield* this.#footer(header)
    if (header.idstr === 'cpu') this.#harts++
    if (this.#earlier.size < MAX_EARLIER) this.#earlier.add(header.idstr)
    this.#visitor.state?.(state, footer)
    this.#previous = ` after section ${printable(header.idstr)}/${header.instanceId}`
  }

  /** How much more is asked for where nobody knows how much there is. */
  get #step(): number {
    return this.#options.live ? 1 : 1 << 16
  }

  /** Of a source that cannot seek: what follows is taken in until it ends, because the description is there. */
  *#lookAhead(): Generator<Wait, void> {
    if (this.#lookedAhead) return
    this.#lookedAhead = true
    const cursor = this.#cursor
    const whole = () => this.#options.live === true && endsWithDescription(cursor.peek(cursor.available))
    while (!cursor.ended && !whole()) {
      if (cursor.available >= this.#bounds.sectionBytes) return
      yield cursor.available + this.#step
    }
    const at = findDescription(cursor.peek(cursor.available))
    if (at < 0) return
    const length = Math.min(cursor.available - at - 5, MAX_DESCRIPTION_BYTES)
    this.#describe(parseDescription(decodeName(cursor.peek(length, at + 5))))
  }

  *#layoutOf(
    header: SectionHeader,
  ): Generator<Wait, { layout?: StateElement['layout']; source: LayoutSource; bytes: number }> {
    const cursor = this.#cursor
    const { idstr, instanceId, version, sectionId } = header
    const described = this.#described.get(`${idstr}\0${instanceId}`)?.shift()
    if (described) {
      const { bytes, layout } = described
      const opaque = described.vmsdName === undefined
      const wrong =
        bytes > this.#bounds.sectionBytes
          ? `${bytes} bytes, more than the bound of ${this.#bounds.sectionBytes}`
          : !opaque && layout.version !== version
            ? `version ${layout.version}, and the section has ${version}`
            : undefined
      if (!wrong) {
        yield bytes + NEXT_ELEMENT_BYTES
        if (cursor.available < bytes) {
          this.#visitor.cut?.(header, cursor.peek(cursor.available))
          throw new WalkStop(
            cursor.position + cursor.available,
            'the stream ends inside of the section',
            `${bytes} bytes of state, ${cursor.available} are there`,
          )
        }
        const footer = this.#footers === false || this.#isFooter(bytes, sectionId)
        const damaged = () => cursor.available > bytes + 5 && this.#elementAt(bytes + 5)
        if (footer || damaged()) {
          const own = opaque ? yield* this.#tableLayout(header, bytes) : undefined
          return own ? { layout: own, source: 'table', bytes } : { layout, source: 'description', bytes }
        }
      }
      this.#report({
        offset: cursor.position,
        message: wrong
          ? `the description says ${wrong}`
          : `the description says ${bytes} bytes, and no footer follows them`,
        fatal: false,
      })
    }
    const vmstate = yield* this.#table(this.#identity(header))
    if (vmstate) {
      yield Math.min(this.#bounds.sectionBytes, 1 << 18)
      const known = layoutByTable(vmstate, version, cursor.peek(cursor.available))
      if (
        known &&
        (this.#footers === false || this.#isFooter(known.bytes, sectionId)) &&
        bytesOf(known.layout) === known.bytes
      )
        return { layout: known.layout, source: 'table', bytes: known.bytes }
    }
    if (this.#footers === false)
      throw new WalkStop(
        cursor.position,
        'nothing tells how long the section is',
        'a description at the end of the stream, section footers or a table of the device',
      )
    const size = yield* this.#bytesToFooter(header)
    // A virtio device is one field whose length only the footer tells; what is in it is known.
    const virtio = /(?:^|\/)(virtio-[a-z]+)$/.exec(idstr)?.[1]
    if (!virtio) return { source: 'none', bytes: size }
    const fields = [{ name: 'virtio', type: 'virtio', size }]
    return { source: 'table', bytes: size, layout: { vmsd_name: virtio, version, fields } }
  }

  #identity({ idstr, instanceId, version }: SectionHeader): SectionIdentity {
    const machine = this.#machine !== undefined && { machine: this.#machine }
    return { idstr, instanceId, version, harts: this.#harts, earlier: this.#earlier, ...machine }
  }

  *#table(section: SectionIdentity): Generator<Wait, Vmstate<any> | undefined> {
    let vmstate = this.#options.tables?.(section)
    if (vmstate instanceof Promise) {
      const loading = vmstate.then((loaded) => {
        vmstate = loaded
      })
      yield loading
    }
    return vmstate as Vmstate<any> | undefined
  }

  /** Of a section that the description has as so many bytes. */
  *#tableLayout(header: SectionHeader, bytes: number): Generator<Wait, VmstateDescription | undefined> {
    const vmstate = yield* this.#table(this.#identity(header))
    const known = vmstate && layoutByTable(vmstate, header.version, this.#cursor.peek(bytes))
    return known?.bytes === bytes && bytesOf(known.layout) === bytes ? known.layout : undefined
  }

  /** Descriptions say nothing of what is in the one field of a virtio device. */
  *#withVirtio(header: SectionHeader, layout: VmstateDescription, bytes: number): Generator<Wait, VmstateDescription> {
    const [field] = layout.fields
    if (!this.#options.tables || layout.fields.length !== 1 || field!.type !== 'virtio' || field!.size !== bytes) {
      return layout
    }
    let virtio: VirtioLayoutFacts | undefined
    virtioLayout(this.#cursor.peek(bytes), (_, facts) => {
      virtio = facts
      return undefined
    })
    const vmstate = virtio && (yield* this.#table({ ...this.#identity(header), virtio }))
    if (!vmstate) return layout
    const inside = virtioLayout(this.#cursor.peek(bytes), (data) => {
      const known = layoutByTable(vmstate, vmstate.version, data)
      return known?.bytes === data.length && bytesOf(known.layout) === data.length ? known.layout : undefined
    })
    return inside ? { ...layout, fields: [{ ...field!, inline: [inside] }] } : layout
  }

  #isFooter(at: number, sectionId: number): boolean {
    const cursor = this.#cursor
    return cursor.available >= at + 5 && cursor.u8(at) === Element.SECTION_FOOTER && cursor.u32(at + 1) === sectionId
  }

  /** Where nothing else tells: up to a footer with the right id that something sensible follows. */
  *#bytesToFooter(header: SectionHeader): Generator<Wait, number> {
    const cursor = this.#cursor
    const { sectionId } = header
    let searched = 0
    for (;;) {
      const limit = cursor.available - (cursor.ended ? 5 : 5 + 16)
      for (; searched <= limit; searched++) {
        const found = cursor.bytes.indexOf(Element.SECTION_FOOTER, cursor.start + searched) - cursor.start
        if (found < 0 || found > limit) {
          searched = Math.max(searched, limit + 1)
          break
        }
        searched = found
        if (this.#isFooter(found, sectionId) && this.#elementAt(found + 5)) return found
      }
      if (cursor.ended || cursor.available >= this.#bounds.sectionBytes) {
        if (header.kind === 'full') this.#visitor.cut?.(header, cursor.peek(cursor.available))
        throw new WalkStop(
          cursor.ended ? cursor.position + cursor.available : cursor.position,
          cursor.ended
            ? 'the stream ends before a footer of the section'
            : 'the section has no footer within the bound',
          `7e and section id ${sectionId} after its state; ${cursor.available} bytes of it are there`,
        )
      }
      yield Math.min(cursor.available + this.#step, this.#bounds.sectionBytes)
    }
  }

  /** Whether an element could begin there. */
  #elementAt(at: number): boolean {
    const cursor = this.#cursor
    const left = cursor.available - at
    if (left <= 0) return true
    const type = cursor.u8(at)
    if (type === Element.EOF) return left === 1 || cursor.u8(at + 1) === Element.VMDESCRIPTION
    if (left < 6) return type <= 4 || type === Element.COMMAND
    if (type === Element.SECTION_START || type === Element.SECTION_FULL) {
      const length = cursor.u8(at + 5)
      if (length === 0) return false
      const name = cursor.peek(Math.min(length, left - 6), at + 6)
      return name.every((byte) => byte > 0x20 && byte < 0x7f)
    }
    if (type === Element.SECTION_PART || type === Element.SECTION_END) return this.#live.has(cursor.u32(at + 1))
    return type === Element.COMMAND && commandName(cursor.u16(at + 1)) !== undefined
  }

  *#afterEnd(): Generator<Wait, void> {
    const cursor = this.#cursor
    this.#section = undefined
    const offset = cursor.position
    yield 5
    if (cursor.available === 0) {
      this.#report({
        offset,
        message: 'there is no description',
        expected: '06 and JSON; receivers do without',
        fatal: false,
      })
      return
    }
    if (cursor.available >= 5 && cursor.u8() === Element.VMDESCRIPTION) {
      const length = cursor.u32(1)
      if (length > MAX_DESCRIPTION_BYTES)
        throw new WalkStop(offset + 1, `a description of ${length} bytes`, `at most ${MAX_DESCRIPTION_BYTES}`)
      yield 5 + length
      const there = Math.min(length, cursor.available - 5)
      const text = cursor.peek(there, 5)
      this.#visitor.description?.(text, offset, length)
      if (there < length)
        this.#report({
          offset: offset + 5 + there,
          message: 'the stream ends inside of the description',
          expected: `${length} bytes, ${there} are there`,
          fatal: false,
        })
      else {
        const problem = this.#description?.problem
        if (problem)
          this.#report({ offset: offset + 5 + problem.at, message: `description: ${problem.message}`, fatal: false })
      }
      cursor.start += 5 + there
    } else
      this.#report({
        offset,
        message: `${hex(cursor.peek(Math.min(5, cursor.available)))} follows the end of the stream`,
        expected: '06, the description',
        fatal: false,
      })
    yield* this.#trailing()
  }

  *#trailing(): Generator<Wait, void> {
    const cursor = this.#cursor
    const offset = cursor.position
    let bytes = 0
    for (;;) {
      if (!this.#options.live) yield 1
      if (cursor.available === 0) break
      this.#visitor.trailing?.(cursor.peek(cursor.available), cursor.position)
      bytes += cursor.available
      cursor.start = cursor.end
    }
    if (bytes > 0) this.#report({ offset, message: `${bytes} bytes follow the stream`, fatal: false })
  }
}

/** What people have in their hands instead, and what helps. */
const FOREIGN: readonly (readonly [start: string, advice: string])[] = [
  ['1f8b', 'as what gzip writes does; unpack it first'],
  ['28b52ffd', 'as what zstd writes does; unpack it first'],
  ['fd377a58', 'as what xz writes does; unpack it first'],
  ['514649fb', 'as a qcow2 image does, not what savevm has put into it'],
  ['4c696276697274', "as libvirt's save images do; the stream is behind its XML, where 51 45 56 4d stands"],
  ['7b', 'as JSON does'],
  ['7f454c46', 'as an ELF file does'],
]
function foreignFormat(bytes: Uint8Array): string | undefined {
  const start = hex(bytes).replaceAll(' ', '')
  return FOREIGN.find(([known]) => start.startsWith(known))?.[1]
}

const hex = (bytes: Uint8Array): string => [...bytes].map((b) => b.toString(16).padStart(2, '0')).join(' ')
