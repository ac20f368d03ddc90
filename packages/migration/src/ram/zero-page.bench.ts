import { GuestMemory, PAGE_BYTES } from '@ferryvm/core'
import { createZeroPageTest, isZeroPageScalar } from './zero-page.ts'

/** The SIMD kernel against a loop in JavaScript, over 64 MiB of zero pages (the worst case: every byte is looked at). */
export default async function bench(report: (line: string) => void): Promise<void> {
  const memory = new GuestMemory()
  const block = memory.addBlock('ram', 64 << 20)
  const isZero = createZeroPageTest(memory)
  const words = Array.from(
    { length: block.sizeBytes / PAGE_BYTES },
    (_, i) => new BigUint64Array(memory.buffer, block.offset + i * PAGE_BYTES, 512),
  )
  const time = (test: (page: number) => boolean) => {
    let best = Number.POSITIVE_INFINITY
    for (let round = 0; round < 10; round++) {
      const began = performance.now()
      for (let page = 0; page < words.length; page++) if (!test(page)) throw new Error('not zero')
      best = Math.min(best, performance.now() - began)
    }
    return (best * 1e6) / words.length
  }
  const simd = time((page) => isZero(block.offset + page * PAGE_BYTES))
  const scalar = time((page) => isZeroPageScalar(words[page]!))
  report(
    `zero page: SIMD ${simd.toFixed(0)} ns, BigUint64Array ${scalar.toFixed(0)} ns, ${(scalar / simd).toFixed(1)}x`,
  )
}
