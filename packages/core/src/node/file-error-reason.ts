const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
  ENOTDIR: 'part of the path is not a directory',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would become too large',
  EIO: 'input/output error',
}

/** Why a file could not be opened, read or written, in words; what has none keeps its own message. */
export function fileErrorReason(cause: unknown): string {
  const code = (cause as { code?: unknown } | undefined)?.code
  if (typeof code === 'string' && REASONS[code]) return REASONS[code]
  return cause instanceof Error ? cause.message : String(cause)
}
