import { mkdtempSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FileSource } from '@ferryvm/board-virt'
import { afterAll, describe, expect, it } from 'vitest'
import { openBootFile } from './boot-file.ts'
import { UsageError } from './usage-error.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferry-boot-file-'))
afterAll(() => rmSync(folder, { recursive: true }))

describe('a boot file', () => {
  it('is read when it is asked for, into memory that threads share, also after it was replaced', () => {
    const path = join(folder, 'kernel')
    writeFileSync(path, 'the first kernel')
    const file = openBootFile('-kernel', path) as FileSource
    writeFileSync(`${path}.new`, 'another')
    renameSync(`${path}.new`, path)
    const target = new Uint8Array(new SharedArrayBuffer(12))
    expect(file.sizeBytes).toBe(16)
    file.read(4, target)
    expect(Buffer.from(target).toString()).toBe('first kernel')
  })

  it('says that it is not what it was, and what cannot be opened', () => {
    const path = join(folder, 'initrd')
    writeFileSync(path, 'cut off')
    const file = openBootFile('-initrd', path) as FileSource
    truncateSync(path, 3)
    expect(() => file.read(0, new Uint8Array(7))).toThrow(/-initrd .*initrd: has 3 bytes now; it had 7/)
    expect(() => openBootFile('-bios', join(folder, 'none'))).toThrow(UsageError)
  })

  it('is held when it is no file', () => {
    expect(openBootFile('-initrd', '/dev/null')).toEqual(Buffer.alloc(0))
  })
})
