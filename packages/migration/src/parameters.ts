import { type BitmapMapping, checkBitmapMapping } from './bitmaps/bitmap-mapping.ts'
import { ParameterError } from './errors.ts'

type Kind =
  | { readonly type: 'size' | 'int'; readonly min: number; readonly max: number; readonly powerOfTwo?: true }
  | { readonly type: 'bool' }
  | { readonly type: 'string' }
  | { readonly type: 'enum'; readonly values: readonly string[] }

export interface ParameterDefinition {
  readonly kind: Kind
  readonly default: number | boolean | string
  /** Unit as `info migrate_parameters` prints it. */
  readonly unit?: string
  /** HMP: multiplier of a number without suffix. */
  readonly hmpUnit?: number
  /** Changing it has an effect today, or has one where channel layers, or disks to send, are given. The others keep their default. */
  readonly implemented?: true | 'with-layers' | 'with-disks'
}

/** Counts and sizes are IEEE doubles here: exact up to 2^53. QMP clients use larger ones only to say "no limit". */
const MAX_SIZE = 2 ** 64
const size = (max = MAX_SIZE, min = 0) => ({ type: 'size' as const, min, max })
const int = (min: number, max: number): Kind => ({ type: 'int', min, max })
const MIB = 1 << 20

/** In the order in which they are listed. Spec: protocol.md section 4. */
export const PARAMETERS = {
  'announce-initial': { kind: size(100_000), default: 50, unit: 'ms', implemented: true },
  'announce-max': { kind: size(100_000), default: 550, unit: 'ms', implemented: true },
  'announce-rounds': { kind: size(1000), default: 5, implemented: true },
  'announce-step': { kind: size(10_000, 1), default: 100, unit: 'ms', implemented: true },
  'compress-level': { kind: int(0, 9), default: 1, implemented: true },
  'compress-threads': { kind: int(1, 255), default: 8, implemented: true },
  'compress-wait-thread': { kind: { type: 'bool' }, default: true, implemented: true },
  'decompress-threads': { kind: int(1, 255), default: 2, implemented: true },
  'throttle-trigger-threshold': { kind: int(1, 100), default: 50, implemented: true },
  'cpu-throttle-initial': { kind: int(1, 99), default: 20, implemented: true },
  'cpu-throttle-increment': { kind: int(1, 99), default: 10, implemented: true },
  'cpu-throttle-tailslow': { kind: { type: 'bool' }, default: false, implemented: true },
  'max-cpu-throttle': { kind: int(1, 99), default: 99, implemented: true },
  'tls-creds': { kind: { type: 'string' }, default: '', implemented: 'with-layers' },
  'tls-hostname': { kind: { type: 'string' }, default: '', implemented: 'with-layers' },
  'max-bandwidth': { kind: size(), default: 128 * MIB, unit: 'bytes/second', hmpUnit: MIB, implemented: true },
  'avail-switchover-bandwidth': { kind: size(), default: 0, unit: 'bytes/second', hmpUnit: MIB, implemented: true },
  'downtime-limit': { kind: int(0, 2_000_000), default: 300, unit: 'ms', implemented: true },
  'x-checkpoint-delay': { kind: int(0, 2 ** 32 - 1), default: 20_000, unit: 'ms', implemented: true },
  'block-incremental': { kind: { type: 'bool' }, default: false, implemented: 'with-disks' },
  'multifd-channels': { kind: int(1, 255), default: 2, implemented: true },
  'multifd-compression': {
    kind: { type: 'enum', values: ['none', 'zlib', 'zstd'] },
    default: 'none',
    implemented: true,
  },
  'multifd-zlib-level': { kind: int(0, 9), default: 1, implemented: true },
  'multifd-zstd-level': { kind: int(0, 20), default: 1, implemented: true },
  'multifd-qatzip-level': { kind: int(1, 9), default: 1 },
  'xbzrle-cache-size': {
    kind: { type: 'size', min: 4096, max: 2 ** 31, powerOfTwo: true },
    default: 64 * MIB,
    unit: 'bytes',
    implemented: true,
  },
  'max-postcopy-bandwidth': { kind: size(), default: 0, unit: 'bytes/second', implemented: true },
  'tls-authz': { kind: { type: 'string' }, default: '', implemented: 'with-layers' },
  'x-vcpu-dirty-limit-period': { kind: int(1, 1000), default: 1000, unit: 'ms' },
  'vcpu-dirty-limit': { kind: size(MAX_SIZE, 1), default: 1, unit: 'MB/s' },
  mode: { kind: { type: 'enum', values: ['normal', 'cpr-reboot', 'cpr-transfer'] }, default: 'normal' },
  'zero-page-detection': {
    kind: { type: 'enum', values: ['none', 'legacy', 'multifd'] },
    default: 'multifd',
    implemented: true,
  },
  'direct-io': { kind: { type: 'bool' }, default: false },
} as const satisfies Record<string, ParameterDefinition>

export type Parameter = keyof typeof PARAMETERS
type ScalarValues = {
  -readonly [K in Parameter]: (typeof PARAMETERS)[K]['default'] extends infer D
    ? D extends number
      ? number
      : D extends boolean
        ? boolean
        : string
    : never
}
export interface ParameterValues extends ScalarValues {
  /** Unset: every bitmap, under its own name. */
  'block-bitmap-mapping'?: BitmapMapping
}

const definitionOf = (name: string): ParameterDefinition | undefined =>
  Object.hasOwn(PARAMETERS, name) ? PARAMETERS[name as Parameter] : undefined

export class Parameters {
  readonly values: ParameterValues
  /** What the parts are there for. */
  readonly #given: Readonly<Record<`${NonNullable<ParameterDefinition['implemented']>}`, boolean>>
  readonly #compressions: readonly string[]

  /**
   * @param withLayers somebody looks at the parameters that ask for a channel layer
   * @param compressions methods that there are, beside `none`
   * @param withDisks disks can go along
   */
  constructor(withLayers = false, compressions: readonly string[] = [], withDisks = false) {
    this.#given = { true: true, 'with-layers': withLayers, 'with-disks': withDisks }
    this.#compressions = compressions
    this.values = Object.fromEntries(Object.entries(PARAMETERS).map(([name, d]) => [name, d.default])) as ScalarValues
  }

  /**
   * All or nothing. Strings take null as "unset".
   * @throws ParameterError nothing was changed
   */
  set({ 'block-bitmap-mapping': bitmaps, ...changes }: Readonly<Record<string, unknown>>): void {
    const mapping = bitmaps === undefined ? {} : { 'block-bitmap-mapping': checkBitmapMapping(bitmaps) }
    const accepted = Object.entries(changes).flatMap(([name, value]) => {
      if (value === undefined) return []
      const definition = definitionOf(name)
      if (!definition) throw new ParameterError(name, 'does not exist')
      const checked = check(name, definition, value)
      const effective = definition.implemented !== undefined && this.#given[`${definition.implemented}`]
      if (!effective && checked !== definition.default) {
        throw new ParameterError(name, `is not implemented here; it stays ${JSON.stringify(definition.default)}`)
      }
      return [[name, checked] as const]
    })
    const method = changes['multifd-compression']
    if (typeof method === 'string' && method !== 'none' && !this.#compressions.includes(method)) {
      const have = ['none', ...this.#compressions].join(', ')
      throw new ParameterError('multifd-compression', `cannot be ${method}: this host has ${have}`)
    }
    const next = { ...this.values, ...Object.fromEntries(accepted), ...mapping }
    if (next['max-cpu-throttle'] < next['cpu-throttle-initial']) {
      const wanted = `an integer from ${next['cpu-throttle-initial']} (cpu_throttle_initial) to 99`
      throw new ParameterError('max-cpu-throttle', `is ${wanted}, not ${next['max-cpu-throttle']}`)
    }
    Object.assign(this.values, next)
  }

  /**
   * As typed at a monitor: sizes with a suffix (k, M, G, T), `on`/`off`.
   * @throws ParameterError
   */
  setText(name: string, text: string): void {
    if (name === 'block-bitmap-mapping')
      throw new ParameterError(name, 'is a list of names: only QMP (migrate-set-parameters) can set it')
    const definition = definitionOf(name)
    if (!definition) throw new ParameterError(name, 'does not exist')
    const { kind } = definition
    if (kind.type === 'size') this.set({ [name]: parseSize(name, text, definition.hmpUnit ?? 1) })
    else if (kind.type === 'int') this.set({ [name]: /^\d+$/.test(text) ? Number(text) : text })
    else if (kind.type === 'bool') this.set({ [name]: text === 'on' ? true : text === 'off' ? false : text })
    else this.set({ [name]: text })
  }
}

function check(name: string, { kind }: ParameterDefinition, value: unknown): number | boolean | string {
  const fail = (wanted: string): never => {
    throw new ParameterError(name, `is ${wanted}, not ${JSON.stringify(value)}`)
  }
  switch (kind.type) {
    case 'bool':
      return typeof value === 'boolean' ? value : fail('on or off')
    case 'string':
      return value === null ? '' : typeof value === 'string' ? value : fail('a string')
    case 'enum':
      return typeof value === 'string' && kind.values.includes(value) ? value : fail(`one of ${kind.values.join(', ')}`)
    default: {
      const range = kind.max === MAX_SIZE ? `an integer from ${kind.min}` : `an integer from ${kind.min} to ${kind.max}`
      if (typeof value !== 'number' || !Number.isInteger(value)) return fail(range)
      if (kind.powerOfTwo && !Number.isInteger(Math.log2(value)))
        return fail(`a power of two from ${kind.min} to ${kind.max}`)
      return value >= kind.min && value <= kind.max ? value : fail(range)
    }
  }
}

const SUFFIXES: Readonly<Record<string, number>> = {
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
  e: 2 ** 60,
}

function parseSize(name: string, text: string, unit: number): number {
  const match = /^(\d+(?:\.\d+)?)([bkmgtpe]?)$/i.exec(text)
  if (!match) throw new ParameterError(name, `is a size like 100, 64k or 1.5G, not "${text}"`)
  return Math.round(Number(match[1]) * (match[2] ? SUFFIXES[match[2].toLowerCase()]! : unit))
}
