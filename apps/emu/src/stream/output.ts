import { open, rename, rm, stat } from 'node:fs/promises'
import type { ByteSink } from '@ferryvm/stream'
import { UsageError } from '../usage-error.ts'

/** Writes a file that is there only once it is whole. `-`: standard output, as it comes. */
export async function writeOutput<T>(path: string, write: (sink: ByteSink) => Promise<T>): Promise<T> {
  if (path === '-') return write({ write: (bytes) => onStdout(bytes) })
  if ((await stat(path).catch(() => undefined))?.isDirectory()) throw new UsageError(`-o ${path}: this is a folder`)
  const partial = `${path}.part`
  const file = await open(partial, 'w').catch((cause: Error) => {
    throw new UsageError(`-o ${path}: ${cause.message}`, { cause })
  })
  try {
    const result = await write({
      write: async (bytes) => {
        for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at)).bytesWritten
      },
    })
    await file.close()
    await rename(partial, path)
    return result
  } catch (error) {
    await file.close().catch(() => {})
    await rm(partial, { force: true })
    throw error
  }
}

/** @throws UsageError there would be two things on standard output */
export function refuseBoth(output: string, json: true | undefined): void {
  if (json && output === '-')
    throw new UsageError('--json: standard output is where the stream goes; write it to a file')
}

/** The bytes are borrowed, so that they must have left before this resolves. */
const onStdout = (bytes: Uint8Array): Promise<void> =>
  new Promise((resolve, reject) => process.stdout.write(bytes, (error) => (error ? reject(error) : resolve())))
