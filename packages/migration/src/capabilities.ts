import { CapabilityError } from './errors.ts'

/** In the order in which they are listed. Spec: protocol.md section 4. */
export const CAPABILITIES = [
  'xbzrle',
  'rdma-pin-all',
  'auto-converge',
  'zero-blocks',
  'compress',
  'events',
  'postcopy-ram',
  'x-colo',
  'release-ram',
  'block',
  'return-path',
  'pause-before-switchover',
  'multifd',
  'dirty-bitmaps',
  'postcopy-blocktime',
  'late-block-activate',
  'x-ignore-shared',
  'validate-uuid',
  'background-snapshot',
  'zero-copy-send',
  'postcopy-preempt',
  'switchover-ack',
  'dirty-limit',
  'mapped-ram',
] as const
export type Capability = (typeof CAPABILITIES)[number]

/** What can be switched on today; the others are known by name and stay off. */
const IMPLEMENTED: ReadonlySet<Capability> = new Set([
  'zero-blocks',
  'events',
  'postcopy-ram',
  'postcopy-preempt',
  'return-path',
  'pause-before-switchover',
  'late-block-activate',
  'validate-uuid',
])

export class Capabilities {
  readonly #on = new Set<Capability>()

  get(name: Capability): boolean {
    return this.#on.has(name)
  }

  /** All, in order. */
  list(): { capability: Capability; state: boolean }[] {
    return CAPABILITIES.map((capability) => ({ capability, state: this.#on.has(capability) }))
  }

  /** All or nothing. @throws CapabilityError nothing was changed */
  set(changes: readonly { capability: string; state: boolean }[]): void {
    for (const { capability, state } of changes) {
      if (!(CAPABILITIES as readonly string[]).includes(capability))
        throw new CapabilityError(capability, 'does not exist')
      if (state && !IMPLEMENTED.has(capability as Capability)) {
        throw new CapabilityError(capability, 'is not implemented here; it can only be off')
      }
    }
    for (const { capability, state } of changes) {
      if (state) this.#on.add(capability as Capability)
      else this.#on.delete(capability as Capability)
    }
  }
}
