import type {
  Compressions,
  GuestMemory,
  PhysicalMap,
  RamHookSender,
  SeekableChannel,
  StreamSettings,
} from '@ferryvm/core'
import type { PageContents } from '../background/memory-moment.ts'
import { momentPages } from '../background/moment-pages.ts'
import type { Capability } from '../capabilities.ts'
import { CapabilityError } from '../errors.ts'
import type { MultifdCompression } from '../multifd/multifd-packet.ts'
import { OutgoingMultifd } from '../multifd/outgoing-multifd.ts'
import type { ParameterValues } from '../parameters.ts'
import { CompressedPages } from './compress/compressed-pages.ts'
import { hookedPages } from './hooked-pages.ts'
import { MappedPages } from './mapped/mapped-pages.ts'
import type { PageEncoder } from './page-encoding.ts'
import { rawPages, zeroPages } from './plain-pages.ts'
import { SharedPages } from './shared/shared-ram.ts'
import { XbzrlePages } from './xbzrle/xbzrle-pages.ts'
import type { IsZeroPage } from './zero-page.ts'

/** What the choice of encodings depends on. */
export interface EncodingRequest {
  readonly map: PhysicalMap
  readonly memory: GuestMemory
  readonly isZero: IsZeroPage
  /** Of a channel that moves pages itself. */
  readonly sender?: RamHookSender
  readonly capability: (name: Capability) => boolean
  /** Live: some may change while the migration runs. */
  readonly parameters: Readonly<ParameterValues>
  /** With mapped-ram. */
  readonly file?: SeekableChannel
  readonly compressions: Compressions
  readonly settings: Partial<StreamSettings>
  readonly uuid: Uint8Array | undefined
  /** Of a guest that goes on meanwhile: its memory as it was. */
  readonly moment?: PageContents
}

/** How the pages of one outgoing migration travel. */
export interface PageEncodings {
  /** In the order in which they are asked. */
  readonly encoders: readonly PageEncoder[]
  /** Further channels, which the migration opens and closes. */
  readonly multifd?: OutgoingMultifd
}

export function pageEncodings(request: EncodingRequest): PageEncodings {
  const { encoders, ...others } = encodingsOfOthers(request)
  // Pages of shared memory go nowhere else, and every entry of the block list begins with what it adds.
  const shared = request.capability('x-ignore-shared') ? [new SharedPages(request.map)] : []
  return { ...others, encoders: [...shared, ...encoders] }
}

function encodingsOfOthers(request: EncodingRequest): PageEncodings {
  const { isZero, capability, parameters } = request
  if (request.sender) return { encoders: [hookedPages(request.sender)] }
  if (request.file) {
    const writers = capability('multifd') ? parameters['multifd-channels'] : 1
    const wanted = parameters['zero-page-detection'] === 'none' ? undefined : isZero
    return { encoders: [new MappedPages(request.file, { isZero: wanted, writers, contents: request.moment })] }
  }
  const detection = parameters['zero-page-detection']
  if (request.moment) return { encoders: [momentPages(request.moment, detection !== 'none')] }
  const zero = detection === 'none' ? [] : [zeroPages(isZero)]
  if (capability('multifd')) {
    const multifd = outgoingMultifd(request)
    const inPackets = detection === 'multifd' && !request.settings.multifdBefore82
    return { multifd, encoders: inPackets ? [multifd] : [...zero, multifd] }
  }
  const xbzrle = capability('xbzrle') ? [new XbzrlePages(isZero, () => parameters['xbzrle-cache-size'])] : []
  const compress = capability('compress') ? [compressedPages(request)] : []
  return { encoders: [...xbzrle, ...compress, ...zero, rawPages()] }
}

function compressedPages({ compressions, isZero, parameters, capability }: EncodingRequest): PageEncoder {
  const { zlib } = compressions
  if (!zlib) throw new CapabilityError('compress', 'needs zlib, which this host does not have')
  return new CompressedPages({ zlib, isZero, parameters, firstPassOnly: capability('xbzrle') })
}

function outgoingMultifd({ isZero, parameters, compressions, settings, uuid }: EncodingRequest): OutgoingMultifd {
  const method = parameters['multifd-compression'] as MultifdCompression
  const format = method === 'none' ? undefined : compressions[method]
  const level = method === 'none' ? 0 : parameters[`multifd-${method}-level`]
  const before82 = settings.multifdBefore82 ?? false
  return new OutgoingMultifd({
    channels: parameters['multifd-channels'],
    uuid,
    isZero: parameters['zero-page-detection'] === 'multifd' && !before82 ? isZero : undefined,
    flushAfterEachSection: before82,
    method,
    compression: format && { format, level },
  })
}
