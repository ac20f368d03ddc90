/** What is compared: the ways to move, and what the guest does meanwhile. */

export type System = 'emu' | '10.0' | '7.2'

export interface Cell {
  readonly name: string
  readonly capabilities: readonly string[]
  readonly parameters: Readonly<Record<string, unknown>>
  readonly kind: 'move' | 'postcopy' | 'file'
  /** Of the guest's program `pace`: MB/s asked for, in whole pages, and the MiB over which they go. */
  readonly writes?: { readonly rate: number; readonly overMiB: number }
  readonly systems: readonly System[]
}

export const RAM_MIB = 1024
/** Of it random. */
export const FILLED_MIB = 700
const OVER_MIB = 256
/** All cells name all of them, so that none stays on from the cell before. */
export const CAPABILITIES = ['xbzrle', 'multifd', 'postcopy-ram'] as const

const ALL: readonly System[] = ['emu', '10.0', '7.2']
const move = (name: string, rate: number, more: Partial<Cell> = {}): Cell => ({
  name,
  capabilities: [],
  parameters: {},
  kind: 'move',
  writes: { rate, overMiB: OVER_MIB },
  systems: ALL,
  ...more,
})

export const CELLS: readonly Cell[] = [
  ...[0, 50, 200, 800].map((rate) => move(`precopy, ${rate} MB/s`, rate)),
  move('xbzrle, 200 MB/s', 200, {
    capabilities: ['xbzrle'],
    parameters: { 'xbzrle-cache-size': 512 * 2 ** 20 },
  }),
  ...[2, 4].flatMap((channels) =>
    [0, 200].map((rate) =>
      move(`multifd ${channels}, ${rate} MB/s`, rate, {
        capabilities: ['multifd'],
        parameters: { 'multifd-channels': channels },
      }),
    ),
  ),
  move('postcopy', 0, { kind: 'postcopy', capabilities: ['postcopy-ram'], writes: undefined }),
  move('mapped-ram', 0, { kind: 'file', capabilities: ['mapped-ram'], writes: undefined, systems: ['emu', '10.0'] }),
]
