/** The pieces a stream is made of. Spec: stream.md sections 1, 4 and 11. */
import type { VmdescStyle } from '../vmstate/description.ts'

/** "QEVM" */
export const STREAM_MAGIC = 0x5145564d
export const STREAM_VERSION = 3

/** The byte that starts an element. */
export const Element = {
  EOF: 0x00,
  SECTION_START: 0x01,
  SECTION_PART: 0x02,
  SECTION_END: 0x03,
  SECTION_FULL: 0x04,
  SUBSECTION: 0x05,
  VMDESCRIPTION: 0x06,
  CONFIGURATION: 0x07,
  COMMAND: 0x08,
  SECTION_FOOTER: 0x7e,
} as const

/** COMMAND ids and the length of their payload; -1: it varies. */
export const COMMANDS = {
  OPEN_RETURN_PATH: { id: 1, length: 0 },
  PING: { id: 2, length: 4 },
  POSTCOPY_ADVISE: { id: 3, length: -1 },
  POSTCOPY_LISTEN: { id: 4, length: 0 },
  POSTCOPY_RUN: { id: 5, length: 0 },
  POSTCOPY_RAM_DISCARD: { id: 6, length: -1 },
  PACKAGED: { id: 7, length: 4 },
  ENABLE_COLO: { id: 8, length: -1 },
  POSTCOPY_RESUME: { id: 9, length: 0 },
  RECV_BITMAP: { id: 10, length: -1 },
  SWITCHOVER_START: { id: 11, length: 0 },
} as const
export type CommandName = keyof typeof COMMANDS

const NAME_OF = new Map<number, CommandName>(
  Object.entries(COMMANDS).map(([name, { id }]) => [id, name as CommandName]),
)
export const commandName = (id: number): CommandName | undefined => NAME_OF.get(id)

/** Properties that change the bytes. Both ends must agree on the first two. Spec: stream.md section 11. */
export interface StreamSettings {
  /** Default true. */
  readonly sendConfiguration: boolean
  /** Default true. */
  readonly sendSectionFooter: boolean
  /** Default false: receivers older than QEMU 10.0 do not know the command, newer ones do not need it. */
  readonly sendSwitchoverStart: boolean
  /** Default false. */
  readonly suppressVmdesc: boolean
  /**
   * With postcopy-preempt: the second channel is there from the start, as releases before QEMU 7.2's successors have it, and
   * not only from the switch on. Default false.
   */
  readonly preemptAtSetup: boolean
  /** With multifd: as releases up to QEMU 8.0 do, and without zero pages in packets. Default false. */
  readonly multifdBefore82: boolean
  /** There is a section `block`, as in releases up to QEMU 9.0, for machines whose disks can go in it. Default false. */
  readonly blockMigration: boolean
  /** Whose habits the JSON description at the end follows. Default `10.0`. */
  readonly vmdescStyle: VmdescStyle
}
export const defaultStreamSettings: StreamSettings = {
  sendConfiguration: true,
  sendSectionFooter: true,
  sendSwitchoverStart: false,
  suppressVmdesc: false,
  preemptAtSetup: false,
  multifdBefore82: false,
  blockMigration: false,
  vmdescStyle: '10.0',
}

/** What a progress display is told about each section as it passes, in stream order. */
export interface SectionProgress {
  readonly direction: 'save' | 'load'
  readonly type: 'start' | 'part' | 'end' | 'full'
  readonly idstr: string
  readonly instanceId: number
  readonly sectionId: number
  readonly version: number
  readonly priority: number
  /** Position of the element byte in the stream. */
  readonly offset: number
  /** Payload, without header and footer. */
  readonly bytes: number
  readonly ms: number
}
