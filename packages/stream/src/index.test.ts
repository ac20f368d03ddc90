import { globSync, readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import * as index from './index.ts'

it('has these public names', () => {
  expect(Object.keys(index).sort()).toEqual([
    'BytesSink',
    'CONVERSIONS',
    'RECEIVERS',
    'StreamConversionError',
    'StreamFieldError',
    'StreamRewriteError',
    'VmstateDumpError',
    'blobSource',
    'bytesSource',
    'channelSource',
    'checkDumps',
    'checkText',
    'decodeState',
    'defaultBounds',
    'diffJson',
    'diffStreams',
    'diffText',
    'dumpTables',
    'editStream',
    'encodeState',
    'explainByDump',
    'explainStream',
    'explainText',
    'fileSource',
    'findLeaf',
    'formatDump',
    'inspectStream',
    'leavesOf',
    'parseAssignment',
    'parseDump',
    'parseValue',
    'problemText',
    'qemu100',
    'qemu72',
    'reportJson',
    'reportJsonText',
    'reportText',
    'rewriteStream',
    'stateJson',
    'upgradeStream',
    'walkStream',
  ])
})

it('runs in browsers: nothing of Node in it but in tests', () => {
  const files = globSync('**/*.ts', { cwd: import.meta.dirname }).filter((f) => !/\.test\.ts$|-testing\.ts$/.test(f))
  const offences = files.filter((f) =>
    /from 'node:|\bBuffer\b|\bprocess\./.test(readFileSync(`${import.meta.dirname}/${f}`, 'utf8')),
  )
  expect(files.length).toBeGreaterThan(20)
  expect(offences).toEqual([])
})

it('reads a blob as it reads bytes', async () => {
  const { blobSource, bytesSource, inspectStream } = index
  const { loadStream, stockStreams } = await import('./stock-streams-testing.ts')
  const bytes = loadStream(stockStreams[0]!)
  expect(await inspectStream(blobSource(new Blob([bytes as BlobPart])))).toEqual(
    await inspectStream(bytesSource(bytes)),
  )
})
