import type { GuestMemory, RamHookSender } from '@ferryvm/core'
import type { Capability } from '../capabilities.ts'
import type { ParameterValues } from '../parameters.ts'
import { hookedPages } from './hooked-pages.ts'
import type { PageEncoder } from './page-encoding.ts'
import { rawPages, zeroPages } from './plain-pages.ts'
import { XbzrlePages } from './xbzrle/xbzrle-pages.ts'
import type { IsZeroPage } from './zero-page.ts'

/** What the choice of encodings depends on. */
export interface EncodingRequest {
  readonly memory: GuestMemory
  readonly isZero: IsZeroPage
  /** Of a channel that moves pages itself. */
  readonly sender?: RamHookSender
  readonly capability: (name: Capability) => boolean
  /** Live: some may change while the migration runs. */
  readonly parameters: Readonly<ParameterValues>
}

/** How the pages of one outgoing migration travel, in the order in which the encoders are asked. */
export function pageEncoders({ isZero, sender, capability, parameters }: EncodingRequest): readonly PageEncoder[] {
  if (sender) return [hookedPages(sender)]
  const encoders: PageEncoder[] = []
  if (capability('xbzrle')) encoders.push(new XbzrlePages(isZero, () => parameters['xbzrle-cache-size']))
  return [...encoders, zeroPages(isZero), rawPages()]
}
