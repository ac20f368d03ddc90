import { readFile } from 'node:fs/promises'
import { FerryError } from '@ferryvm/core'
import { parseDump, type VmstateDump } from '@ferryvm/stream'
import { UsageError } from '../usage-error.ts'

/**
 * A file in the form of `-dump-vmstate`.
 * @param missing what is wrong if there is no such file
 * @throws UsageError
 */
export async function readDump(file: string, missing = 'cannot be read'): Promise<VmstateDump> {
  const text = await readFile(file, 'utf8').catch((cause: Error) => {
    throw new UsageError(`${file}: ${missing}: ${cause.message}`, { cause })
  })
  try {
    return parseDump(text)
  } catch (cause) {
    if (!FerryError.isInstance(cause)) throw cause
    throw new UsageError(`${file}: ${cause.message}; expected what emu vmstate dump or QEMU's -dump-vmstate writes`, {
      cause,
    })
  }
}
