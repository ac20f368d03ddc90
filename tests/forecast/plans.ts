/** What a run of the calibration does, drawn at random from a seed. */

export interface Plan {
  readonly ramMiB: number
  /** So much of it holds content; the rest is zero. */
  readonly fillMiB: number
  /** The argument of the guest's program `writer`; 0: it sleeps. */
  readonly writer: number
  /** Bytes per second; 0: no limit. */
  readonly bandwidth: number
  readonly downtimeLimitMs: number
  readonly autoConverge: boolean
  readonly text: string
}

/** 0 to 1. */
export type Random = () => number

/** Marsaglia's xorshift32. */
export function random(seed: number): Random {
  let x = (seed * 2654435761) | 0 || 1
  return () => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (x >>> 0) / 2 ** 32
  }
}

/** The guest's program `writer` writes to memory from here on. */
const WRITER_AT_MIB = 44

export function planOf(draw: Random): Plan {
  const between = (low: number, high: number) => Math.round(low * (high / low) ** draw())
  const ramMiB = [64, 128, 256][Math.floor(draw() * 3)]!
  const fillMiB = between(32, ramMiB)
  const limited = draw() < 0.8
  const speedMiB = limited ? between(12, 200) : 0
  const downtimeLimitMs = between(30, 600)
  const busy = draw() < 0.8
  const rateMiB = between(1, 1.5 * (speedMiB || 300))
  const setMiB = between(1, ramMiB - WRITER_AT_MIB)
  const atRandom = draw() < 0.5
  const autoConverge = draw() < 0.15
  return {
    ramMiB,
    fillMiB,
    bandwidth: speedMiB * 2 ** 20,
    downtimeLimitMs,
    autoConverge,
    writer: busy ? (atRandom ? 2 ** 31 : 0) + rateMiB * 2 ** 15 + setMiB : 0,
    text:
      `${fillMiB} of ${ramMiB} MiB, ${speedMiB || 'any'} MiB/s, ${downtimeLimitMs} ms${autoConverge ? ', auto-converge' : ''}, ` +
      (busy ? `${rateMiB} MiB/s to ${setMiB} MiB${atRandom ? ' at random' : ''}` : 'guest asleep'),
  }
}

/** One of the times at which somebody asked. */
export function moments<T>(asked: readonly T[], draw: Random): T | undefined {
  return asked[Math.floor(draw() * asked.length)]
}
