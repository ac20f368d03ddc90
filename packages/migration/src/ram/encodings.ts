import type { PageEncoder } from './page-encoding.ts'
import { rawPages, zeroPages } from './plain-pages.ts'
import type { IsZeroPage } from './zero-page.ts'

/** What the choice of encodings depends on. */
export interface EncodingRequest {
  readonly isZero: IsZeroPage
}

/** How the pages of one outgoing migration travel, in the order in which the encoders are asked. */
export function pageEncoders({ isZero }: EncodingRequest): readonly PageEncoder[] {
  return [zeroPages(isZero), rawPages()]
}
