import { constants, existsSync } from 'node:fs'
import { access, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ColoGuardError } from '../errors.ts'
import type { Fence } from '../guard/fence.ts'

/**
 * A fence in the file system, beside the disk that both sides share: the claim is a file that only one of them can create.
 * @param path of the claim; a new pair needs a new one
 */
export function lockFileFence(path: string): Fence {
  let won = false
  return {
    get lost() {
      return !won && existsSync(path)
    },
    async check() {
      if (existsSync(path)) {
        throw new ColoGuardError(
          `the lock file ${path} is there already: that pair has ended; a new one needs a new file`,
        )
      }
      try {
        await access(dirname(path), constants.W_OK | constants.X_OK)
      } catch (cause) {
        throw new ColoGuardError(`the lock file ${path} could not be made: ${(cause as Error).message}`, { cause })
      }
    },
    async claim(role) {
      if (won) return true
      try {
        await using file = await open(path, 'wx', 0o644)
        won = true
        await file.writeFile(`${role} ${process.pid}\n`)
        await file.sync()
        return true
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return won
        won = false
        throw new ColoGuardError(`the lock file ${path} cannot be made: ${(cause as Error).message}`, { cause })
      }
    },
  }
}
