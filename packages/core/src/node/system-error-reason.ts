const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
  ENOTDIR: 'part of the path is not a directory',
  ELOOP: 'its symbolic links lead nowhere',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would become too large',
  EIO: 'input/output error',
  ECONNREFUSED: 'connection refused (nothing listens there)',
  EADDRINUSE: 'the address is in use',
  EADDRNOTAVAIL: 'the address does not belong to this host',
  ENOTFOUND: 'the host name is unknown',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the network',
  ETIMEDOUT: 'timed out',
  ABORT_ERR: 'given up',
}

/** Why the system refused a file or a connection, in words; what has none keeps its own message. */
export function systemErrorReason(cause: unknown): string {
  // A connection reports one error per tried address; the first one is as good as any.
  const first = cause instanceof AggregateError && cause.errors.length > 0 ? cause.errors[0] : cause
  const code = (first as { code?: unknown } | undefined)?.code
  if (typeof code === 'string' && REASONS[code]) return REASONS[code]
  return first instanceof Error ? first.message : String(first)
}
