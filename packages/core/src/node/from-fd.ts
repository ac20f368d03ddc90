import { close, read, writev } from 'node:fs'
import type { Channel } from '../channel/channel.ts'
import { asChannelClosed, CloseState } from '../channel/close-state.ts'
import { UnsupportedFeatureError } from '../errors/channel-error.ts'

/** writev takes at most this many buffers on Linux. */
const IOV_MAX = 1024

export interface FdOptions {
  /** Leave the descriptor open in `close`. Default: it is closed. */
  readonly keepOpen?: boolean
}

/**
 * A channel over a file descriptor: a file, a pipe, an inherited descriptor. For sockets prefer `fromDuplex`: reads of a
 * descriptor block a thread of Node's pool each.
 * @param input read from here; -1: write only
 * @param output written to; -1: read only. Default: the same descriptor.
 */
export function fromFd(input: number, output: number = input, options: FdOptions = {}): Channel {
  const state = new CloseState()
  let reading = false
  let readShut = input < 0
  let writeShut = output < 0

  return {
    features: new Set(),
    read(into) {
      if (into.length === 0) throw new RangeError('a read needs room for one byte')
      if (reading) throw new TypeError('a read of this channel is already waiting')
      if (state.closed) return Promise.reject(state.error())
      if (readShut) return 0
      reading = true
      return new Promise((resolve, reject) => {
        read(input, into, 0, into.length, null, (error, count) => {
          reading = false
          if (state.closed) reject(state.error())
          else if (error) reject(asChannelClosed(error))
          else resolve(count)
        })
      })
    },
    async write(buffers) {
      state.throwIfClosed()
      if (writeShut) throw new UnsupportedFeatureError('write', 'this descriptor')
      let rest = buffers.filter((buffer) => buffer.length > 0)
      while (rest.length > 0) {
        state.throwIfClosed()
        let count = await writeSome(output, rest.slice(0, IOV_MAX)).catch((error) => {
          throw asChannelClosed(error)
        })
        while (rest.length > 0 && count >= rest[0]!.length) count -= rest.shift()!.length
        if (count > 0) rest = [rest[0]!.subarray(count), ...rest.slice(1)]
      }
    },
    async shutdown() {
      state.throwIfClosed()
      throw new UnsupportedFeatureError('shutdown', 'a file descriptor')
    },
    async close(reason) {
      if (!state.close(reason)) return
      readShut = true
      writeShut = true
      if (options.keepOpen) return
      for (const fd of new Set([input, output])) {
        if (fd >= 0) await new Promise<void>((resolve) => close(fd, () => resolve()))
      }
    },
  }
}

const writeSome = (fd: number, buffers: readonly Uint8Array[]): Promise<number> =>
  new Promise((resolve, reject) => {
    writev(fd, buffers as Uint8Array[], (error, count) => (error ? reject(error) : resolve(count)))
  })
