/** What the matrix consists of: cells, and the journeys of a guest that show them. One boot serves several cells. */
import type { Journey } from '../harness/journey.ts'
import { TRANSPORTS, type TransportName } from '../harness/passages.ts'
import type { PeerKind } from '../harness/peers.ts'

export type Release = '7.2' | '10.0'
export type Direction = 'to emu' | 'from emu' | 'through emu' | 'stock pair' | 'booted on emu'

/** One cell of the table; its name is what `--only` looks into. */
export interface Cell {
  readonly name: string
  /** Which of the journey's hops it consists of. */
  readonly hops: readonly number[]
}

export interface Route {
  readonly journey: Journey
  readonly cells: readonly Cell[]
  /** Two stock machines: for comparison. What it shows is told, and no failure of ours. */
  readonly comparison?: boolean
}

export const RELEASES: readonly Release[] = ['7.2', '10.0']
export const GUESTS = ['load', 'idle'] as const
export const BUSES = ['pcie.0', 'virtio-mmio'] as const
export const HARTS = [1, 2] as const

/** For guests that boot on 10.0 and are to go to 7.2: without what a 7.2 hart lacks. */
const PLAIN = 'rv64,zicboz=off,zicbom=off,zawrs=off'
/** A guest that stock left asleep would be asleep for ever. A busy one may be slow on a busy host, which is not silence. */
const COMPARISON_ANSWER_MS = { idle: 10_000, load: 120_000 }

export function cellName(
  release: Release,
  direction: Direction,
  transport: TransportName,
  { guest, bus, harts }: Pick<Journey, 'guest' | 'bus' | 'harts'>,
): string {
  return `${release} ${direction}, ${transport}, ${guest}, ${bus}, ${harts} hart${harts === 1 ? '' : 's'}`
}
export const bridgeName = (guest: Journey['guest'], rounds: number) =>
  `bridge 7.2 > emu > 10.0 > emu > 7.2, ${rounds} rounds, ${guest}`

/** @param rounds of the bridge, there and back */
export function matrixRoutes(rounds: number): Route[] {
  const routes: Route[] = []
  for (const guest of GUESTS) {
    for (const bus of BUSES) {
      for (const harts of HARTS)
        for (const transport of TRANSPORTS) routes.push(...routesOf({ guest, bus, harts, transport }))
    }
    const machines: PeerKind[] = ['7.2']
    for (let i = 0; i < rounds; i++) machines.push('emu-10.0', '10.0', 'emu-7.2', '7.2')
    const hops = machines.slice(1).map((_, hop) => hop)
    const journey = { machines, guest, bus: 'pcie.0', harts: 1, transport: 'tcp' } as const
    routes.push({ journey, cells: [{ name: bridgeName(guest, rounds), hops }] })
  }
  return routes
}

function routesOf(guest: Omit<Journey, 'machines'> & { transport: TransportName }): Route[] {
  const routes: Route[] = []
  for (const release of RELEASES) {
    const other = release === '7.2' ? '10.0' : '7.2'
    const cell = (direction: Direction, hops: number[]): Cell => ({
      name: cellName(release, direction, guest.transport, guest),
      hops,
    })
    const cpu10 = release === '10.0' ? PLAIN : undefined
    routes.push({
      journey: { ...guest, cpu10, machines: [release, release], answerMs: COMPARISON_ANSWER_MS[guest.guest] },
      cells: [cell('stock pair', [0])],
      comparison: true,
    })
    routes.push({
      journey: { ...guest, cpu10, machines: [release, `emu-${release}`, release, `emu-${other}`, other] },
      cells: [cell('to emu', [0]), cell('from emu', [1]), cell('through emu', [2, 3])],
    })
    // A guest that knows emu's firmware tables and, with the profile of 10.0, uses everything that such a hart has.
    if (guest.transport !== 'tcp') continue
    routes.push({
      journey: { ...guest, machines: [`emu-${release}`, release, `emu-${release}`] },
      cells: [cell('booted on emu', [0, 1])],
    })
  }
  return routes
}
