/**
 * A device package as somebody outside the ferryvm project writes it: it knows `@ferryvm/core` and nothing else.
 *
 * ```sh
 * emu run --plugin acme-rng -device acme-rng,seed=7 …
 * ```
 */
import { definePlugin } from '@ferryvm/core'
import { acmeRng } from './acme-rng.ts'

export { acmeRng, acmeRngVmstate } from './acme-rng.ts'
export default definePlugin({ name: 'acme-rng', contract: 1, devices: [acmeRng] })
