import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { GuestMemory, PAGE_BYTES } from '@ferryvm/core'
import { PageCache } from './xbzrle/page-cache.ts'
import { createXbzrleDecode } from './xbzrle/xbzrle-decode.ts'
import { createZeroPageTest, isZeroPageScalar } from './zero-page.ts'

/** Too much for a cache, so that memory is what limits, as in a migration. */
const PAGES = (48 << 20) / PAGE_BYTES
/** 8 bytes in each 512 are different. */
const STEP = 512

/** Our kernels as the sender and the receiver call them, page by page, in GB of guest memory per second; beside them native C. */
export default async function bench(report: (line: string) => void): Promise<void> {
  const best = (work: () => void) => {
    let ms = Number.POSITIVE_INFINITY
    for (let round = 0; round < 10; round++) {
      const began = performance.now()
      work()
      ms = Math.min(ms, performance.now() - began)
    }
    return (PAGES * PAGE_BYTES) / ms / 1e6
  }
  const memory = new GuestMemory()
  const ram = memory.addBlock('ram', PAGES * PAGE_BYTES)
  const isZero = createZeroPageTest(memory)
  const words = Array.from(
    { length: PAGES },
    (_, i) => new BigUint64Array(memory.buffer, ram.offset + i * PAGE_BYTES, PAGE_BYTES / 8),
  )
  const check = (holds: boolean) => {
    if (!holds) throw new Error('a kernel returned what it must not')
  }
  ram.bytes.fill(1).fill(0) // otherwise every page would be the host's one zero page
  const zero = best(() => {
    for (let page = 0; page < PAGES; page++) check(isZero(ram.offset + page * PAGE_BYTES))
  })
  const scalar = best(() => {
    for (let page = 0; page < PAGES; page++) check(isZeroPageScalar(words[page]!))
  })

  for (let i = 0; i < ram.bytes.length; i++) ram.bytes[i] = (i * 7) >>> 3
  const cache = new PageCache(2 ** Math.ceil(Math.log2(PAGES)))
  for (let page = 0; page < PAGES; page++) {
    cache.claim(page, page, 1).set(ram.bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES))
  }
  for (let i = 100; i + 8 < ram.bytes.length; i += STEP) for (let k = 0; k < 8; k++) ram.bytes[i + k]! ^= 0x55
  const expected = (PAGE_BYTES / STEP) * 11 // two bytes for a long run, one for the short, eight that differ
  const encode = best(() => {
    for (let page = 0; page < PAGES; page++) {
      const length = cache.encode(page, ram.bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES))
      check(Math.abs(length - expected) < 9)
    }
  })
  const encoded = cache.encoded(cache.encode(0, ram.bytes.subarray(0, PAGE_BYTES))).slice()
  const apply = createXbzrleDecode(memory)
  const decode = best(() => {
    for (let page = 0; page < PAGES; page++) check(apply(encoded, ram.offset + page * PAGE_BYTES) === undefined)
  })

  const native = measureNative()
  const line = (what: string, ours: number, theirs: number | undefined) =>
    report(
      `${what}: ${ours.toFixed(1)} GB/s${theirs ? `, native C ${theirs.toFixed(1)}, ratio ${(ours / theirs).toFixed(2)}` : ''}`,
    )
  if (!native) report('no C compiler: our figures alone')
  line('zero page scan', zero, native?.[0])
  report(`  (a loop over BigUint64Array: ${scalar.toFixed(1)} GB/s)`)
  line('XBZRLE encode, with the copy of the page that goes into the cache', encode, native?.[2])
  report(`  (native without that copy: ${native?.[1]?.toFixed(1)} GB/s)`)
  line('XBZRLE decode', decode, native?.[3])
}

function measureNative(): number[] | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-kernels-'))
  try {
    const source = resolve(import.meta.dirname, '../../bench/kernels.c')
    execFileSync('cc', ['-O2', '-o', join(folder, 'kernels'), source], { stdio: ['ignore', 'ignore', 'inherit'] })
    const out = execFileSync(join(folder, 'kernels'), [String(PAGES), String(STEP)], { encoding: 'utf8' })
    return out.trim().split('\n').map(Number)
  } catch {
    return undefined
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
