/** The matrix without its machines: which cells there are, and how results become a table. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { TRANSPORTS } from '../harness/passages.ts'
import { type CellResult, ResultFile } from './results.ts'
import { BUSES, cellName, GUESTS, HARTS, matrixRoutes, RELEASES } from './routes.ts'
import { matrixTables } from './table.ts'

const routes = matrixRoutes(10)
const cells = routes.flatMap((route) => route.cells)

describe('the cells', () => {
  it('are all combinations, each once, and each with its pair of stock machines', () => {
    const wanted = (['to emu', 'from emu', 'through emu', 'stock pair'] as const).flatMap((direction) =>
      RELEASES.flatMap((release) =>
        TRANSPORTS.flatMap((transport) =>
          GUESTS.flatMap((guest) =>
            BUSES.flatMap((bus) =>
              HARTS.map((harts) => cellName(release, direction, transport, { guest, bus, harts })),
            ),
          ),
        ),
      ),
    )
    expect(wanted.length).toBe(240 + 80)
    const names = cells.map(({ name }) => name)
    expect(names.filter((name) => !/bridge|booted/.test(name)).sort()).toEqual(wanted.sort())
    expect(new Set(names).size).toBe(names.length)
  })

  it('are hops between the machines that their names say', () => {
    for (const { journey, cells: own } of routes) {
      for (const { name, hops } of own) {
        const machines = [journey.machines[hops[0]!]!, ...hops.map((hop) => journey.machines[hop + 1]!)]
        const [release, other] = name.startsWith('7.2') ? ['7.2', '10.0'] : ['10.0', '7.2']
        if (name.includes('to emu')) expect(machines).toEqual([release, `emu-${release}`])
        else if (name.includes('from emu')) expect(machines).toEqual([`emu-${release}`, release])
        else if (name.includes('through emu')) expect(machines).toEqual([release, `emu-${other}`, other])
        else if (name.includes('stock pair')) expect(machines).toEqual([release, release])
        else if (name.startsWith('bridge')) expect(machines.length).toBe(1 + 4 * 10)
      }
    }
  })
})

describe('results', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferryvm-matrix-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  const { name } = cells.find((cell) => cell.name.startsWith('7.2 through emu, fd, load'))!
  const result = (more: Partial<CellResult> = {}): CellResult => {
    return {
      cell: name,
      ok: true,
      downtimeMs: [7.4, 5.4],
      totalMs: [200, 100],
      lostByStock: 0,
      at: '2026-11-28',
      ...more,
    }
  }

  it('are there again after a run that was killed while it wrote', () => {
    const path = join(folder, 'results.jsonl')
    const first = new ResultFile(path, false)
    first.add(result({ ok: false, note: 'silent' }))
    first.add(result())
    writeFileSync(path, `${readFileSync(path, 'utf8')}{"cell":"7.2 fr`)
    new ResultFile(path, true).add(result({ cell: 'another' }))
    expect([...new ResultFile(path, true).results.values()]).toEqual([result(), result({ cell: 'another' })])
    expect(new ResultFile(path, false).results.size).toBe(0)
  })

  it('are sums of hops; a failure has its reason below', () => {
    const table = (r: CellResult) => matrixTables(new Map([[r.cell, r]]), 10)
    expect(table(result({ lostByStock: 1 }))).toContain(
      '| load, PCI, 1 | 7.2 > emu > 10.0 |  |  |  | 13 / 300 (run 2) |  |',
    )
    const failed = table(result({ ok: false, note: 'the guest says: lost; last output: …' }))
    expect(failed).toContain('| **fails** [1] |')
    expect(failed).toContain(`1. ${name}: the guest says: lost\n`)
  })
})
