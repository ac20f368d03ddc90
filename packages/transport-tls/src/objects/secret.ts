import { createDecipheriv } from 'node:crypto'
import { readBoundedFile } from '../bounded-file.ts'
import { TlsCredentialsError } from '../errors.ts'

export interface SecretOptions {
  /** The secret itself, or … */
  readonly data?: string
  /** … the file that has it. */
  readonly file?: string
  /** How `data`, or the content of the file, is written. Default `raw`. */
  readonly format?: 'raw' | 'base64'
  /** It is encrypted (AES-256, CBC, padded as in PKCS #7) with this key of 32 bytes. */
  readonly key?: Uint8Array
  /** 16 bytes in base64; needed with a key. */
  readonly iv?: string
}

const KEY_BYTES = 32
const BLOCK_BYTES = 16

/** Bytes of a secret. @throws TlsCredentialsError what is there is none */
export function readSecret({ data, file, format = 'raw', key, iv }: SecretOptions): Uint8Array {
  if (data !== undefined && file !== undefined) throw new TlsCredentialsError('data and file exclude each other')
  if (data === undefined && file === undefined) throw new TlsCredentialsError('data or file is needed')
  const where = file === undefined ? 'data' : file
  const written = file === undefined ? Buffer.from(data!, 'utf8') : readBoundedFile(file)
  const bytes = format === 'base64' ? fromBase64(written.toString('latin1'), where) : written
  if (!key) {
    if (iv !== undefined) throw new TlsCredentialsError('iv is for a secret that is encrypted: keyid is missing')
    return bytes
  }
  if (key.length !== KEY_BYTES)
    throw new TlsCredentialsError(`keyid: its key has ${key.length} bytes, not ${KEY_BYTES}`)
  if (iv === undefined) throw new TlsCredentialsError('iv is missing: an encrypted secret needs 16 bytes in base64')
  const vector = fromBase64(iv, 'iv')
  if (vector.length !== BLOCK_BYTES) throw new TlsCredentialsError(`iv has ${vector.length} bytes, not ${BLOCK_BYTES}`)
  if (bytes.length === 0 || bytes.length % BLOCK_BYTES !== 0) {
    throw new TlsCredentialsError(
      `${where}: encrypted, it has ${bytes.length} bytes, which is no multiple of ${BLOCK_BYTES}`,
    )
  }
  const decipher = createDecipheriv('aes-256-cbc', key, vector)
  try {
    return Buffer.concat([decipher.update(bytes), decipher.final()])
  } catch (cause) {
    throw new TlsCredentialsError(`${where} was not encrypted with this key and iv`, { cause })
  }
}

/** Buffer would skip what is none. */
function fromBase64(text: string, where: string): Buffer {
  const compact = text.replace(/\s+/g, '')
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(compact) || compact.length % 4 !== 0) {
    throw new TlsCredentialsError(`${where} is not base64`)
  }
  return Buffer.from(compact, 'base64')
}
