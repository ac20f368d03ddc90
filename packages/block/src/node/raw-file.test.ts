import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { rawFile } from './raw-file.ts'

describe('rawFile', () => {
  let folder: string
  let path: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-'))
    path = join(folder, 'disk.img')
    writeFileSync(path, new Uint8Array(4 * 512 + 100).fill(7))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  it('shows whole sectors and writes through to the file', async () => {
    const disk = await rawFile(path)
    expect(disk).toMatchObject({ capacityBytes: 4 * 512, readOnly: false })
    await disk.write(512, new Uint8Array(1024).fill(9))
    await disk.flush()
    const back = new Uint8Array(1536)
    await disk.read(0, back)
    expect([back[511], back[512], back[1535]]).toEqual([7, 9, 9])
    expect(readFileSync(path)[512]).toBe(9)
    await disk.close?.()
  })

  it('rejects a write to a read-only disk, and a read of a file that became shorter', async () => {
    const disk = await rawFile(path, { readOnly: true })
    await expect(disk.write(0, new Uint8Array(512))).rejects.toThrow()
    truncateSync(path, 512)
    await expect(disk.read(0, new Uint8Array(1024))).rejects.toMatchObject({ code: 'FERRY_IMAGE_IO', offset: 512 })
    await disk.close?.()
  })

  it('says what is wrong with a path', async () => {
    await expect(rawFile(join(folder, 'none'))).rejects.toMatchObject({ code: 'FERRY_IMAGE_OPEN' })
    await expect(rawFile(folder, { readOnly: true })).rejects.toThrow('it is a directory')
  })
})
