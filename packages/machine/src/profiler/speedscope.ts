import type { Place } from './places.ts'
import type { Profile } from './profiler.ts'
import type { SymbolTable } from './symbol-table.ts'

/** A file that speedscope opens. Spec: https://www.speedscope.app/file-format-schema.json. */
export interface SpeedscopeFile {
  readonly $schema: 'https://www.speedscope.app/file-format-schema.json'
  readonly name: string
  readonly exporter: string
  readonly activeProfileIndex: number
  readonly shared: { readonly frames: readonly { readonly name: string; readonly file?: string }[] }
  readonly profiles: readonly {
    readonly type: 'sampled'
    readonly name: string
    readonly unit: 'milliseconds'
    readonly startValue: number
    readonly endValue: number
    /** Stacks, outermost first: the privilege mode, then the function. */
    readonly samples: readonly (readonly number[])[]
    readonly weights: readonly number[]
  }[]
}

const MODES = ['U-mode', 'S-mode', 'VS-mode', 'M-mode']
const RESTING = { idle: 'idle (wfi)', stopped: 'stopped' } as const

/** One profile per hart: how long it was in which function of which privilege mode, and idle, in the order of time. */
export function speedscopeFile(profile: Profile, symbols: SymbolTable, name: string): SpeedscopeFile {
  const frames: { name: string; file?: string }[] = []
  const indices = new Map<string, number>()
  const frame = (name: string, file?: string): number => {
    const key = `${name}\0${file ?? ''}`
    let index = indices.get(key)
    if (index === undefined) {
      index = frames.push(file === undefined ? { name } : { name, file }) - 1
      indices.set(key, index)
    }
    return index
  }
  const stack = (place: Place): readonly number[] => {
    if (typeof place === 'string') return [frame(RESTING[place])]
    const symbol = symbols.find(place.pc)
    const mode = frame(MODES[place.mode])
    return [mode, symbol ? frame(symbol.name, symbol.file) : frame(pageName(place.pc))]
  }
  const stacks = profile.places.map(stack)
  return {
    $schema: 'https://www.speedscope.app/file-format-schema.json',
    name,
    exporter: 'ferryvm',
    activeProfileIndex: 0,
    shared: { frames },
    profiles: profile.harts.map((timeline, hart) => {
      const samples: (readonly number[])[] = []
      const weights: number[] = []
      for (const { place, duration } of timeline.runs()) {
        samples.push(stacks[place])
        weights.push(Math.round(duration * 1000) / 1000)
      }
      const endValue = weights.reduce((sum, weight) => sum + weight, 0)
      return { type: 'sampled', name: `hart ${hart}`, unit: 'milliseconds', startValue: 0, endValue, samples, weights }
    }),
  }
}

/** What has no symbol counts by page: there may be any number of such addresses. */
const pageName = (pc: bigint) => `0x${(pc >> 12n).toString(16)}xxx`
