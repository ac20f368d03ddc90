import { stat } from 'node:fs/promises'
import { dirname, isAbsolute, join } from 'node:path'
import type { BlockBackend } from '@ferryvm/core'
import { BackingChainError, ImageFeatureError, ImageOptionError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'
import { IMAGE_FORMATS, type ImageFormat, PROBE_BYTES, probeFormat } from '../probe-format.ts'
import { Qcow2Image, readHeader } from '../qcow2/qcow2-image.ts'
import { rawImage } from '../raw/raw-image.ts'
import { nodeClusterCompression } from './cluster-compression.ts'
import { openImageFile } from './node-image-file.ts'

/** Images on top of each other. */
const MAX_CHAIN = 200

export interface OpenImageOptions {
  /** Default: what the file looks like. */
  readonly format?: string
  readonly readOnly?: boolean
  /** Also while another process writes to it. */
  readonly unlocked?: boolean
  /** See {@link Qcow2Options.asItIs}. */
  readonly asItIs?: boolean
  /** Leaves backing files alone: what is not in the image itself reads as zeros. */
  readonly withoutBacking?: boolean
  /** Told when the format was guessed as raw, and is not safe to be guessed the next time. */
  readonly warn?: (message: string) => void
}

export interface OpenImage {
  readonly path: string
  readonly format: ImageFormat
  readonly file: ImageFile
  readonly backend: BlockBackend
  /** With format qcow2, the same as `backend`. */
  readonly qcow2: Qcow2Image | undefined
  readonly backing: OpenImage | undefined
}

/**
 * Opens an image and everything below it.
 * @throws ImageError of any kind; nothing is left open
 */
export function openImage(path: string, options: OpenImageOptions = {}): Promise<OpenImage> {
  return openInChain(path, options, [])
}

/** @param above who is on top, topmost first: device and inode */
async function openInChain(path: string, options: OpenImageOptions, above: readonly string[]): Promise<OpenImage> {
  const { readOnly = false, unlocked } = options
  const identity = await identityOf(path)
  if (above.includes(identity))
    throw new BackingChainError(path, 'the image is, through its backing files, backed by itself')
  if (above.length >= MAX_CHAIN) throw new BackingChainError(path, `it is below ${MAX_CHAIN} other images`)
  const file = await openImageFile(path, { readOnly, unlocked })
  let backing: OpenImage | undefined
  try {
    const probed = await formatOf(file)
    const { format = probed } = options
    if (!isSupported(format)) {
      const known = options.format === undefined ? 'looks like one of' : 'is asked for as'
      throw new ImageFeatureError(path, `it ${known} format "${format}"; supported are ${IMAGE_FORMATS.join(' and ')}`)
    }
    if (format === 'raw') {
      const guessed = options.format === undefined
      if (guessed && !readOnly) {
        options.warn?.(
          `${path}: the format was not given and is guessed as raw. A guest can make a raw disk look like another format, so ` +
            'it may not write such a first sector. Say format=raw if that is what it is.',
        )
      }
      const looksLike = (first: Uint8Array) => (probeFormat(first) === 'raw' ? undefined : probeFormat(first))
      const backend = await rawImage(file, guessed && !readOnly ? { guarded: looksLike } : {})
      return { path, format, file, backend, qcow2: undefined, backing: undefined }
    }
    const { backingFile, backingFormat } = await readHeader(file)
    if (backingFile !== undefined && !options.withoutBacking) {
      const below = { format: backingFormat, readOnly: true, unlocked, warn: options.warn }
      backing = await openInChain(backingPath(path, backingFile), below, [...above, identity])
    }
    const qcow2 = await Qcow2Image.open(file, {
      backing: backing?.backend,
      compression: nodeClusterCompression,
      asItIs: options.asItIs,
    })
    if (qcow2.bitmapsValid && !readOnly && !options.asItIs) {
      options.warn?.(
        `${path}: the dirty bitmaps in the image are not kept up to date here. With the first write the image says so, and nobody finds ` +
          'them in it any more.',
      )
    }
    return { path, format, file, backend: qcow2, qcow2, backing }
  } catch (error) {
    await backing?.backend.close?.()
    await file.close()
    throw error
  }
}

const isSupported = (format: string): format is ImageFormat => (IMAGE_FORMATS as readonly string[]).includes(format)

/** The same file under two names is the same. */
async function identityOf(path: string): Promise<string> {
  const info = await stat(path, { bigint: true }).catch(() => undefined)
  return info ? `${info.dev}:${info.ino}` : path
}

/** What the first bytes look like. */
export async function formatOf(file: ImageFile): Promise<string> {
  const start = new Uint8Array(PROBE_BYTES)
  await file.read(0, start)
  return probeFormat(start)
}

/**
 * Names in an image count from where the image is.
 * @throws ImageFeatureError it is no name of a local file
 */
export function backingPath(image: string, name: string): string {
  const local = name.startsWith('file:') ? name.slice('file:'.length) : name
  if (/^(json|nbd|nbd\+\w+|https?|ftps?|ssh|iscsi|rbd|gluster\S*|vvfat|fat):/.test(local)) {
    throw new ImageFeatureError(image, `its backing file "${name}" is not a local file, which is not supported`)
  }
  if (local === '') throw new ImageOptionError(image, 'its backing file has an empty name')
  return isAbsolute(local) ? local : join(dirname(image), local)
}
