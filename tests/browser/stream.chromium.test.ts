/** @ferryvm/stream in a page of a real browser: what it says of a stream there is what it says here. */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { zstdDecompressSync } from 'node:zlib'
import * as stream from '@ferryvm/stream'
import { describe, expect, it } from 'vitest'
import { bundleForBrowser, chromiumMissing, serve, startChromium } from './chromium.ts'

const packages = resolve(import.meta.dirname, '../../packages/stream')
const sample = (name: string) =>
  new Uint8Array(zstdDecompressSync(readFileSync(resolve(packages, `src/__fixtures__/${name}.mig.zst`))))
const missing = chromiumMissing()
if (missing) console.log(`skipped: a browser and @ferryvm/stream, ${missing}`)

/** Runs here and in the page, with the module that it finds there. */
async function everything(lib: typeof stream, blobs: readonly Blob[]) {
  const [a, b] = [() => lib.blobSource(blobs[0]!), () => lib.blobSource(blobs[1]!)]
  const report = await lib.inspectStream(a())
  const edited = new lib.BytesSink()
  await lib.editStream(a(), edited, [lib.parseAssignment('serial/0:ier=7')])
  const upgraded = new lib.BytesSink()
  await lib.upgradeStream(a(), upgraded, '10.0')
  const ofUpgraded = await lib.inspectStream(lib.bytesSource(upgraded.bytes()))
  const piped = lib.channelSource({
    read: ((reader) => {
      let left = new Uint8Array(0)
      return async (into: Uint8Array) => {
        if (left.length === 0) left = ((await reader.read()).value as typeof left | undefined) ?? left
        const piece = left.subarray(0, into.length)
        into.set(piece)
        left = left.subarray(piece.length)
        return piece.length
      }
    })(blobs[0]!.stream().getReader()),
  })
  return {
    text: [...lib.reportText(report)],
    json: JSON.stringify(lib.reportJson(report)),
    ofPipe: JSON.stringify(lib.reportJson(await lib.inspectStream(piped))),
    diff: [...lib.diffText(await lib.diffStreams(a(), b()))],
    editDiff: [...lib.diffText(await lib.diffStreams(a(), lib.bytesSource(edited.bytes())))],
    explained: [...lib.explainText(lib.explainStream(report, lib.RECEIVERS['10.0']!), '10.0')],
    explainedUpgraded: [...lib.explainText(lib.explainStream(ofUpgraded, lib.RECEIVERS['10.0']!), '10.0')],
  }
}

describe.skipIf(missing)('@ferryvm/stream in Chromium', { timeout: 120_000 }, () => {
  it('inspects, compares, explains, edits and converts streams as it does here', async () => {
    const samples = ['rv72-bm-pci-smp2', 'rv100-bm-pci-smp2'].map(sample)
    await using server = await serve({
      '/stream.js': await bundleForBrowser(resolve(packages, 'src/index.ts')),
      '/a.mig': samples[0]!,
      '/b.mig': samples[1]!,
    })
    const browser = await startChromium()
    try {
      const page = await browser.newPage()
      const failures: string[] = []
      page.on('pageerror', (error) => failures.push(String(error)))
      await page.goto(server.url)
      const there = await page.evaluate(`(async () => {
        const lib = await import('/stream.js')
        const blobs = await Promise.all(['/a.mig', '/b.mig'].map(async (url) => (await fetch(url)).blob()))
        return (${everything.toString()})(lib, blobs)
      })()`)
      const here = await everything(
        stream,
        samples.map((bytes) => new Blob([bytes])),
      )
      expect(there).toEqual(here)
      expect(failures).toEqual([])
      expect(here.text.length).toBeGreaterThan(300)
      expect(here.editDiff).toEqual(['serial/0:', '  serial.ier: 1 | 7'])
      expect(here.explained.join('\n')).toMatch(/version_id 5 is too old/)
      expect(here.explainedUpgraded.join('\n')).not.toMatch(/rejected/)
    } finally {
      await browser.close()
    }
  })
})
