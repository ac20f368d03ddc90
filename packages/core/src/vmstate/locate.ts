import { FerryError } from '../errors/ferry-error.ts'
import { isVmstateError, VmstateHookError, VmstateTruncatedError } from '../errors/vmstate-error.ts'

/** What an error that comes out of a row becomes: a VmstateError that knows the row. Channel errors stay what they are. */
export function locateInRow(error: unknown, row: string, offset: number | undefined): unknown {
  if (isVmstateError(error)) return error.insideRow(row, offset)
  if (FerryError.isInstance(error)) {
    if (error.code !== 'FERRY_STREAM_TRUNCATED') return error
    return new VmstateTruncatedError(row, 'the stream ended here', { offset, cause: error })
  }
  return new VmstateHookError('code of the row', error, { offset }).insideRow(row)
}

/** Runs one hook of a table; wraps what is not an error of ours. */
export function runHook(name: string, hook: () => void): void {
  try {
    hook()
  } catch (error) {
    if (FerryError.isInstance(error)) throw error
    throw new VmstateHookError(name, error)
  }
}

export function locateInSection(error: unknown, section: string): unknown {
  return isVmstateError(error) && error.section === '' ? error.inSection(section) : error
}

export const truncated = (row: string, offset: number, wanted: number, available: number): VmstateTruncatedError =>
  new VmstateTruncatedError(row, `the stream ended: ${wanted} bytes wanted, ${available} there`, { offset })
