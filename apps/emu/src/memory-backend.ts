import { type FileHandle, open } from 'node:fs/promises'
import type { Machine, RamBacking } from '@ferryvm/core'
import { systemErrorReason } from '@ferryvm/core/node'
import { isOn, type Keyvals, parseKeyvals, parseSize } from './keyval.ts'
import { UsageError } from './usage-error.ts'

const TYPES = ['memory-backend-ram', 'memory-backend-file']
/** Read or written at once. */
const PIECE_BYTES = 16 * 2 ** 20

/** `-object memory-backend-file,id=I,size=S,mem-path=F[,share=on]`, or `memory-backend-ram`: what `-M virt,memory-backend=I` names. */
export class MemoryBackend {
  readonly id: string
  readonly sizeBytes: number
  /** Of memory-backend-file, once it is open. */
  backing: RamBacking | undefined
  readonly #path: string | undefined
  readonly #share: boolean
  #file: FileHandle | undefined
  #ran = false

  private constructor(text: string, keyvals: Keyvals) {
    const { type, id, size, 'mem-path': path, share, ...others } = keyvals
    const wrong = (what: string) => new UsageError(`-object ${text}: ${what}`)
    const [unknown] = Object.keys(others)
    if (unknown !== undefined) throw wrong(`unknown property '${unknown}' (there are: id, size, mem-path, share)`)
    if (!id || !size) throw wrong('id and size are needed')
    if ((type === 'memory-backend-file') !== (path !== undefined))
      throw wrong('mem-path belongs to memory-backend-file')
    this.id = id
    this.sizeBytes = parseSize(size)
    if (this.sizeBytes < 2 ** 20 || this.sizeBytes % 4096 !== 0 || this.sizeBytes > 3 * 2 ** 30)
      throw wrong('size is 1M to 3G, in whole pages')
    this.#path = path
    this.#share = share !== undefined && isOn(share)
  }

  /** @returns the back-ends among objects, and the other objects @throws UsageError */
  static among(objects: readonly string[]): { backends: MemoryBackend[]; others: string[] } {
    const backends: MemoryBackend[] = []
    const others: string[] = []
    for (const text of objects) {
      const keyvals = text.startsWith('{') ? undefined : parseKeyvals(text, 'type')
      if (keyvals && TYPES.includes(keyvals.type ?? '')) backends.push(new MemoryBackend(text, keyvals))
      else others.push(text)
    }
    return { backends, others }
  }

  /** The file is created, or has that size already. @throws UsageError */
  async open(): Promise<void> {
    const path = this.#path
    if (path === undefined) return
    const fail = (what: string, cause?: unknown) => new UsageError(`memory-backend-file ${path}: ${what}`, { cause })
    const file = await open(path, 'r+')
      .catch((error) => {
        if (error.code === 'ENOENT') return open(path, 'wx+', 0o600)
        throw error
      })
      .catch((cause) => {
        throw fail(systemErrorReason(cause), cause)
      })
    this.#file = file
    const { size } = await file.stat()
    if (size === 0) await file.truncate(this.sizeBytes)
    else if (size < this.sizeBytes) {
      await this.close()
      throw fail(`it has ${size} bytes, and size says ${this.sizeBytes}`)
    }
    const pieces = async (total: number, move: (at: number, bytes: number) => Promise<number>, what: string) => {
      for (let at = 0; at < total; ) {
        const moved = await move(at, Math.min(PIECE_BYTES, total - at)).catch((cause) => {
          throw fail(`cannot ${what} it: ${systemErrorReason(cause)}`, cause)
        })
        if (moved === 0) throw fail(`it has become shorter than ${total} bytes`)
        at += moved
      }
    }
    this.backing = {
      path,
      shared: this.#share,
      read: (into) => pieces(into.length, async (at, n) => (await file.read(into, at, n, at)).bytesRead, 'read'),
      write: (bytes, offset) =>
        pieces(bytes.length, async (at, n) => (await file.write(bytes, at, n, offset + at)).bytesWritten, 'write'),
    }
  }

  /** From now on the guest of that machine is what the file is to hold at the end. */
  belongsTo(machine: Machine): void {
    machine.on('resume', () => (this.#ran = true))
  }

  /** The machine is closed. Memory is written back, unless the guest never ran here or has left. */
  async close(machine?: Machine): Promise<void> {
    const { backing } = this
    const block = backing && machine?.memory.blocks.find((b) => b.backing === backing)
    const keeps = block && backing.shared && this.#ran && machine!.runState !== 'postmigrate'
    if (keeps) await backing.write(block.bytes, 0)
    await this.#file?.close()
  }
}
