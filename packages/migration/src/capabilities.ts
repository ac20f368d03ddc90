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
  'xbzrle',
  'rdma-pin-all',
  'auto-converge',
  'multifd',
  'mapped-ram',
  'compress',
  'zero-blocks',
  'events',
  'postcopy-ram',
  'postcopy-preempt',
  'postcopy-blocktime',
  'return-path',
  'pause-before-switchover',
  'late-block-activate',
  'dirty-bitmaps',
  'validate-uuid',
  'background-snapshot',
  'x-ignore-shared',
])

/** What cannot be on together, in the rules of 10.0 (and of 7.2 where only that has the capability). */
const CONFLICTS: readonly (readonly [Capability, readonly Capability[]])[] = [
  ['xbzrle', ['multifd', 'mapped-ram']],
  ['auto-converge', ['dirty-limit']],
  ['compress', ['multifd', 'postcopy-preempt', 'mapped-ram']],
  // Not a rule of QEMU's: pages of a checkpoint go to a cache, where only whole ones make sense.
  ['x-colo', ['xbzrle', 'multifd', 'compress', 'postcopy-ram', 'mapped-ram']],
  // Not a rule of QEMU's: what is in a shared file is of now, and neither of one moment nor at a place in the stream's file.
  ['x-ignore-shared', ['background-snapshot', 'mapped-ram', 'x-colo']],
  ['postcopy-ram', ['x-ignore-shared', 'multifd', 'mapped-ram']],
  // Nor is this: disks are complete before the guest moves, so that it cannot go first, and belong to no snapshot of memory.
  ['block', ['postcopy-ram', 'background-snapshot', 'mapped-ram', 'x-colo']],
  [
    'background-snapshot',
    [
      ...(['postcopy-ram', 'dirty-bitmaps', 'postcopy-blocktime', 'late-block-activate', 'return-path'] as const),
      ...(['multifd', 'pause-before-switchover', 'auto-converge', 'release-ram', 'rdma-pin-all'] as const),
      ...(['compress', 'xbzrle', 'x-colo', 'validate-uuid', 'zero-copy-send'] as const),
    ],
  ],
]
const REQUIREMENTS: readonly (readonly [Capability, Capability])[] = [
  ['postcopy-preempt', 'postcopy-ram'],
  ['switchover-ack', 'return-path'],
  ['zero-copy-send', 'multifd'],
]

export class Capabilities {
  #on: ReadonlySet<Capability> = new Set()
  readonly #extra: ReadonlySet<Capability>

  /** @param extra what a part that this process was given makes possible */
  constructor(extra: readonly Capability[] = []) {
    this.#extra = new Set(extra)
  }

  get(name: Capability): boolean {
    return this.#on.has(name)
  }

  /** Those that are on. */
  get on(): ReadonlySet<Capability> {
    return new Set(this.#on)
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
      if (state && !IMPLEMENTED.has(capability as Capability) && !this.#extra.has(capability as Capability)) {
        throw new CapabilityError(capability, 'is not implemented here; it can only be off')
      }
    }
    const next = new Set(this.#on)
    for (const { capability, state } of changes as readonly { capability: Capability; state: boolean }[]) {
      if (state) next.add(capability)
      else next.delete(capability)
    }
    for (const [capability, others] of CONFLICTS) {
      const other = next.has(capability) ? others.find((o) => next.has(o)) : undefined
      if (!other) continue
      const said =
        capability === 'background-snapshot' ? `Background-snapshot is not compatible with ${other}` : undefined
      throw new CapabilityError(capability, `cannot be on together with "${other}"`, said)
    }
    for (const [capability, needed] of REQUIREMENTS) {
      if (next.has(capability) && !next.has(needed)) throw new CapabilityError(capability, `needs "${needed}"`)
    }
    this.#on = next
  }
}
