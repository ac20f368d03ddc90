/**
 * Numbers of the NBD protocol, with the names that its document gives them.
 * Spec: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */

/** "NBDMAGIC", and "IHAVEOPT" before whatever a client asks for while negotiating. */
export const NBD_MAGIC = 0x4e42444d41474943n
export const OPTION_MAGIC = 0x49484156454f5054n
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n
export const REQUEST_MAGIC = 0x25609513
export const SIMPLE_REPLY_MAGIC = 0x67446698
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef

export const FLAG_FIXED_NEWSTYLE = 1
export const FLAG_NO_ZEROES = 2

export const NbdOption = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const

const ERROR_BIT = 2 ** 31
export const NbdReply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: ERROR_BIT + 1,
  ERR_POLICY: ERROR_BIT + 2,
  ERR_INVALID: ERROR_BIT + 3,
  ERR_TLS_REQD: ERROR_BIT + 5,
  ERR_UNKNOWN: ERROR_BIT + 6,
  ERR_SHUTDOWN: ERROR_BIT + 7,
  ERR_TOO_BIG: ERROR_BIT + 9,
} as const
export const isErrorReply = (type: number): boolean => type >= ERROR_BIT

export const NbdInfo = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const

export const TransmissionFlag = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_FUA: 8,
  SEND_TRIM: 32,
  SEND_WRITE_ZEROES: 64,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
} as const

export const NbdCommand = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const
export const commandName = (type: number): string =>
  Object.entries(NbdCommand).find(([, number]) => number === type)?.[0] ?? `command ${type}`

export const CommandFlag = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8 } as const

export const CHUNK_DONE = 1
export const Chunk = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: 2 ** 15 + 1,
  ERROR_OFFSET: 2 ** 15 + 2,
} as const

/** Of errno(3), as the protocol numbers them. */
export const NbdErrno = { EPERM: 1, EIO: 5, EINVAL: 22, ENOSPC: 28, ENOTSUP: 95, ESHUTDOWN: 108 } as const
export const errnoName = (errno: number): string =>
  Object.entries(NbdErrno).find(([, number]) => number === errno)?.[0] ?? `error ${errno}`

/** What a block status says of an extent. */
export const ALLOCATION_CONTEXT = 'base:allocation'
export const STATE_HOLE = 1
export const STATE_ZERO = 2

export const REQUEST_BYTES = 28
export const SECTOR_BYTES = 512
/** What one read or write may carry: more is refused by every server in use. */
export const MAX_PAYLOAD_BYTES = 32 << 20
/** Names of exports and descriptions, bytes. */
export const MAX_STRING_BYTES = 4096
