import { randomBytes } from 'node:crypto'
import { unlink } from 'node:fs/promises'
import { resolve } from 'node:path'
import { createImage, type Drive, openImage } from '@ferryvm/block/node'

/** A disk that is going to be two: an image for each of the twins over what is there now, which nobody writes any more. */
export interface DiskFork {
  /** The twin's. */
  readonly file: string
  readonly format: string
  /** While the machine stands: the parent goes over to its own. @throws ImageError the disk is as it was */
  apply(): Promise<void>
  /** It does not come to that. */
  undo(): Promise<void>
}

/** Makes the images, which takes longer than going over to them. @throws ImageError */
export async function prepareDiskFork(drive: Drive): Promise<DiskFork> {
  const base = resolve(drive.path)
  const { format, readOnly } = drive
  if (readOnly) return { file: base, format, apply: async () => {}, undo: async () => {} }
  const name = base.replace(/\.(parent|twin)-[0-9a-f]{8}$/, '')
  const number = randomBytes(4).toString('hex')
  const [parent, twin] = [`${name}.parent-${number}`, `${name}.twin-${number}`]
  let applied = false
  const undo = async () => {
    for (const path of applied ? [twin] : [parent, twin]) await unlink(path).catch(() => {})
  }
  try {
    for (const path of [parent, twin]) {
      await createImage(path, { format: 'qcow2', backingFile: base, backingFormat: format })
    }
  } catch (error) {
    await undo()
    throw error
  }
  return {
    file: twin,
    format: 'qcow2',
    undo,
    async apply() {
      // It lets go of its lock, which would be in the way of those who read the base from now on.
      await drive.inactivate()
      try {
        await drive.replace(async () => {
          const { backend } = await openImage(parent, { format: 'qcow2' })
          return { backend, path: parent, format: 'qcow2', inFile: true }
        })
        applied = true
      } catch (error) {
        await drive.activate()
        throw error
      }
    },
  }
}
