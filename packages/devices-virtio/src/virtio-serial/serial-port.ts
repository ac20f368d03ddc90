/** One port of a virtio console device: a stream of bytes each way, over two queues. Spec: virtio 1.2, section 5.3. */
import { type CharBackend, gatedBackend, nextTurn, type OutputGate, VmstateRangeError } from '@ferryvm/core'
import type { VirtioDevice } from '../virtio-device.ts'
import { gather, scatter, segmentBytes, type Virtqueue, type VirtqueueElement } from '../virtqueue.ts'
import type { ConsolePortState } from './virtio-console-vmstate.ts'

/** Of a buffer that the guest sends, so much at a time goes to the host. */
const CHUNK_BYTES = 64 * 1024
/** Input that a backend delivers although it was told that there is no room; beyond it input is dropped. */
const HOST_QUEUE_BYTES = 1 << 20

export interface SerialPortOptions {
  /** A console, which Linux offers as /dev/hvcN; otherwise a plain port, /dev/vportXpN. */
  readonly isConsole: boolean
  /** What the guest sees in /sys/class/virtio-ports; udev makes /dev/virtio-ports/NAME of it. */
  readonly name?: string
  readonly chardev?: CharBackend
}

/** What a port needs of its device. */
export interface SerialPortHost {
  readonly device: VirtioDevice
  /** Queues of port `id`: to the guest, from the guest. */
  queues(id: number): readonly [Virtqueue, Virtqueue]
  /** The host's end was opened or closed. */
  hostChanged(port: SerialPort): void
}

export class SerialPort {
  readonly id: number
  readonly isConsole: boolean
  readonly name: string | undefined
  guestConnected = false
  hostConnected = false
  readonly #host: SerialPortHost
  readonly #chardev: CharBackend | undefined
  readonly #listeners: Disposable[] = []
  /** Input for which the guest has no buffer; not guest state, and so stays with this process. */
  #input: Uint8Array[] = []
  #inputBytes = 0
  /** A buffer of the guest of which the first `sent` bytes have gone out. */
  #popped: { element: VirtqueueElement; sent: number } | undefined
  /** The backend has not settled the last write. */
  #busy = false

  constructor(id: number, { isConsole, name, chardev }: SerialPortOptions, host: SerialPortHost, gate: OutputGate) {
    this.id = id
    this.isConsole = isConsole
    this.name = name
    this.#host = host
    this.#chardev = chardev && gatedBackend(chardev, gate)
    if (!this.#chardev) return
    this.#listeners.push(this.#chardev.onInput((bytes) => this.#fromHost(bytes)))
    // What a guest prints to its console must not wait for somebody to look at it.
    if (isConsole || !this.#chardev.onConnection) this.hostConnected = true
    else {
      this.#listeners.push(
        this.#chardev.onConnection((connected) => {
          if (connected === this.hostConnected) return
          this.hostConnected = connected
          host.hostChanged(this)
        }),
      )
    }
  }

  /** The guest opened or closed its end. */
  setGuestConnected(connected: boolean): void {
    this.guestConnected = connected
    if (connected) this.#host.device.process(this.#host.queues(this.id)[0].index)
  }

  /** Past the queues. */
  print(bytes: Uint8Array): void {
    this.#chardev?.write(bytes)?.catch((error: unknown) => this.#host.device.reportIoError(error))
  }

  /** Moves input into the buffers that the guest has given. */
  toGuest(): void {
    const { device } = this.#host
    const [queue] = this.#host.queues(this.id)
    while (this.#input.length > 0 && this.guestConnected && device.running && device.started) {
      const element = queue.pop()
      if (!element) break
      const room = segmentBytes(element.in)
      let written = 0
      while (written < room && this.#input.length > 0) {
        const chunk = this.#input[0]!
        const part = chunk.subarray(0, room - written)
        if (!scatter(device.dma, element.in, written, part)) {
          device.fail(`queue ${queue.index}: the buffer of request ${element.index} cannot be written`)
          return
        }
        written += part.length
        this.#inputBytes -= part.length
        if (part.length === chunk.length) this.#input.shift()
        else this.#input[0] = chunk.subarray(part.length)
      }
      queue.push(element, written)
    }
    this.#chardev?.setReadable?.(this.#inputBytes === 0)
  }

  /** Sends what the guest has put into its queue, as far as the host takes it. */
  fromGuest(): void {
    const { device } = this.#host
    const [, queue] = this.#host.queues(this.id)
    if (this.#popped) queue.demand(this.#popped.element)
    for (let n = 0; !this.#busy; n++) {
      // A guest that refills as fast as we send must not keep the device thread to itself.
      if (n === queue.size) {
        this.#wait(nextTurn(), queue)
        return
      }
      this.#popped ??= this.#pop(queue)
      if (!this.#popped) return
      const { element, sent } = this.#popped
      const bytes = new Uint8Array(Math.min(segmentBytes(element.out) - sent, CHUNK_BYTES))
      if (bytes.length === 0 || !this.#chardev || !this.hostConnected) {
        this.#popped = undefined
        queue.push(element, 0)
        continue
      }
      if (!gather(device.dma, element.out, sent, bytes)) {
        device.fail(`queue ${queue.index}: the buffer of request ${element.index} cannot be read`)
        this.#popped = undefined
        return
      }
      this.#popped.sent += bytes.length
      const later = this.#chardev.write(bytes)
      if (later) this.#wait(later, queue)
    }
  }

  /** Power-on, or the driver resets the device. */
  reset(): void {
    this.guestConnected = false
    this.#popped = undefined
  }

  collect(): ConsolePortState {
    const popped = this.#popped
    const state: ConsolePortState = {
      id: this.id,
      guest_connected: this.guestConnected ? 1 : 0,
      host_connected: this.hostConnected ? 1 : 0,
      elem_popped: popped ? 1 : 0,
      iov_idx: 0,
      iov_offset: 0n,
      element: popped?.element ?? { index: 0, out: [], in: [] },
    }
    let rest = popped?.sent ?? 0
    for (const { length } of state.element.out) {
      if (rest < length) break
      rest -= length
      state.iov_idx++
    }
    state.iov_offset = BigInt(rest)
    return state
  }

  /** @throws VmstateRangeError */
  accept(state: ConsolePortState): void {
    this.guestConnected = state.guest_connected !== 0
    this.#popped = undefined
    if (state.elem_popped === 0) return
    const { element, iov_idx: index, iov_offset: offset } = state
    if (index > element.out.length || offset > BigInt(element.out[index]?.length ?? 0)) {
      throw new VmstateRangeError('', `port ${this.id}: byte ${offset} of part ${index} of its buffer does not exist`)
    }
    this.#popped = { element, sent: segmentBytes(element.out.slice(0, index)) + Number(offset) }
  }

  close(): void {
    for (const listener of this.#listeners) listener[Symbol.dispose]()
  }

  #pop(queue: Virtqueue): { element: VirtqueueElement; sent: number } | undefined {
    const element = queue.pop()
    return element && { element, sent: 0 }
  }

  #wait(later: Promise<void>, queue: Virtqueue): void {
    this.#busy = true
    const goOn = () => {
      this.#busy = false
      this.#host.device.process(queue.index)
    }
    later.then(goOn, (error: unknown) => {
      this.#host.device.reportIoError(error)
      goOn()
    })
  }

  #fromHost(bytes: Uint8Array): void {
    const room = HOST_QUEUE_BYTES - this.#inputBytes
    const taken = bytes.length <= room ? bytes : bytes.subarray(0, room)
    if (taken.length > 0) {
      this.#input.push(taken)
      this.#inputBytes += taken.length
    }
    const [queue] = this.#host.queues(this.id)
    // Through the device, which knows when a queue must wait.
    this.#host.device.process(queue.index)
    this.#chardev?.setReadable?.(this.#inputBytes === 0)
  }
}
