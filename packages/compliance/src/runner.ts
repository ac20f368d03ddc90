/** The two functions of a test runner that the kits use: vitest's, jest's, mocha's, node:test's all fit. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  it(name: string, body: () => void | Promise<void>): unknown
}

/** A sentence of the contract does not hold. */
export class ComplianceFailure extends Error {
  override readonly name = 'ComplianceFailure'
}

export function check(holds: unknown, sentence: string): asserts holds {
  if (!holds) throw new ComplianceFailure(sentence)
}

export function checkSameBytes(actual: Uint8Array, expected: Uint8Array, sentence: string): void {
  const length = Math.min(actual.length, expected.length)
  for (let i = 0; i < length; i++) {
    if (actual[i] === expected[i]) continue
    const at = `byte ${i} is 0x${actual[i]!.toString(16)}, expected 0x${expected[i]!.toString(16)}`
    throw new ComplianceFailure(`${sentence}: ${at}`)
  }
  check(actual.length === expected.length, `${sentence}: ${actual.length} bytes, expected ${expected.length}`)
}

/** What a promise or a function fails with. @throws ComplianceFailure it did not fail */
export async function failureOf(run: () => unknown, sentence: string): Promise<Error> {
  try {
    await run()
  } catch (error) {
    return error as Error
  }
  throw new ComplianceFailure(`${sentence}: nothing was thrown`)
}

/** @throws ComplianceFailure it took longer: what the kits call a hang */
export async function within<T>(work: T | Promise<T>, sentence: string, timeoutMs = 5000): Promise<T> {
  let timeout: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timeout = setTimeout(() => reject(new ComplianceFailure(`${sentence}: nothing in ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timeout)
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Bytes that differ from place to place, the same each time. */
export function pattern(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length)
  let x = seed | 1
  for (let i = 0; i < length; i++) {
    x = Math.imul(x, 0x41c64e6d) + 12345
    bytes[i] = x >>> 16
  }
  return bytes
}
