import type { CharBackend } from './char-backend.ts'

/** What a serial line may hold back before its device, and so the guest, has to wait. */
const HELD_BYTES = 1 << 20

/**
 * Between a machine and the world: while it is closed, devices keep what the world would see (writes to disks, characters)
 * with themselves, so that everything since the last checkpoint can still be forgotten. A device asks `closed` before it
 * lets something out, and lets out what it held when told so. Devices that only take input need not know of it.
 */
export class OutputGate {
  #closed = false
  readonly #listeners = new Set<(what: 'release' | 'discard') => void>()

  get closed(): boolean {
    return this.#closed
  }

  /** From now on output is held. The machine must be stopped, with its devices quiesced. */
  close(): void {
    this.#closed = true
  }

  /** A checkpoint that contains everything up to here is safe: lets it out, and goes on holding what comes. */
  release(): void {
    this.#tell('release')
  }

  /** The machine goes back to a checkpoint: what was held since then never happened. */
  discard(): void {
    this.#tell('discard')
  }

  /** Lets everything out, and from now on at once. */
  open(): void {
    this.#closed = false
    this.#tell('release')
  }

  /** @param listener may let out what it holds even while `closed` */
  onDecision(listener: (what: 'release' | 'discard') => void): Disposable {
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) }
  }

  #tell(what: 'release' | 'discard'): void {
    for (const listener of [...this.#listeners]) listener(what)
  }
}

/** A character backend behind a gate; input is not touched. */
export function gatedBackend(backend: CharBackend, gate: OutputGate): CharBackend {
  let held: Uint8Array[] = []
  let heldBytes = 0
  let full: PromiseWithResolvers<void> | undefined
  gate.onDecision((what) => {
    const bytes = new Uint8Array(heldBytes)
    let at = 0
    for (const chunk of held) {
      bytes.set(chunk, at)
      at += chunk.length
    }
    held = []
    heldBytes = 0
    const settle = full
    full = undefined
    const sent = what === 'release' && bytes.length > 0 ? backend.write(bytes) : undefined
    settle?.resolve(sent)
  })
  return {
    write(bytes) {
      if (!gate.closed) return backend.write(bytes)
      held.push(bytes)
      heldBytes += bytes.length
      if (heldBytes < HELD_BYTES) return undefined
      full ??= Promise.withResolvers()
      return full.promise
    },
    onInput: (listener) => backend.onInput(listener),
    ...(backend.setReadable && { setReadable: (readable: boolean) => backend.setReadable!(readable) }),
    ...(backend.onConnection && {
      onConnection: (listener: (connected: boolean) => void) => backend.onConnection!(listener),
    }),
  }
}
