/** Kill campaigns without their processes: what is tried again, what counts, and how results become a table. */
import { describe, expect, it } from 'vitest'
import { type KillResult, NEVER_STRUCK, NotStruckError, struck, VIOLATION } from './campaign.ts'
import { circumstances, killTables, readResults } from './kill-table.ts'

describe('a kill', () => {
  it('is tried again where nothing was struck, and keeps why', async () => {
    let tries = 0
    const once = async () => {
      if (++tries < 3) throw new NotStruckError('no start', { cause: new Error(`after ${tries} s`) })
      return 'recovered'
    }
    expect(await struck(once)).toEqual({
      fate: 'recovered',
      notStruck: ['no start (after 1 s)', 'no start (after 2 s)'],
    })
  })

  it('that never strikes is none, and no violation', async () => {
    const once = () => Promise.reject(new NotStruckError('no start'))
    expect(await struck(once)).toEqual({ fate: NEVER_STRUCK, notStruck: ['no start', 'no start', 'no start'] })
  })

  it('with an outcome that must not be is a violation at once', async () => {
    let tries = 0
    const once = async () => {
      tries++
      throw new Error('two guests run')
    }
    expect(await struck(once)).toEqual({ fate: VIOLATION, wrong: 'two guests run', notStruck: [] })
    expect(tries).toBe(1)
  })
})

describe('results', () => {
  const result = (more: Partial<KillResult>): KillResult => ({
    mode: 'precopy',
    pair: '7.2 to emu-7.2',
    victim: 'link',
    step: 'shut',
    fate: 'at the source',
    notStruck: [],
    commit: 'abc1234',
    at: '2026-11-28T10:00:00.000Z',
    load: 3,
    ...more,
  })
  const results = [
    result({}),
    result({ step: 'pong' }),
    result({ fate: 'at the destination' }),
    result({ victim: 'source', fate: VIOLATION, load: 9 }),
    result({ fate: 'no strike', notStruck: ['no start'] }),
    result({ mode: 'snapshot', pair: 'emu img', victim: 'writer', fate: 'whole' }),
  ]

  it('become tables that count only what was struck', () => {
    expect(killTables(results).split('\n')).toEqual([
      '| way | pair | kills | distinct strikes | violations |',
      '|---|---|---:|---:|---:|',
      '| precopy | 7.2 to emu-7.2 | 4 | 3 | 1 |',
      '| snapshot | emu img | 1 | 1 | 0 |',
      '| **all** |  | 5 |  | 1 |',
      '',
      '| way | pair | struck | kills | what became of the guest |',
      '|---|---|---|---:|---|',
      '| precopy | 7.2 to emu-7.2 | link | 3 | at the destination 1, at the source 2 |',
      '| precopy | 7.2 to emu-7.2 | source | 1 | VIOLATION 1 |',
      '| snapshot | emu img | writer | 1 | whole 1 |',
    ])
    expect(circumstances(results)).toBe(
      'Made on 2026-11-28 at abc1234, with a load average of 3 to 9.\n' +
        'Not counted, because nothing was struck: no strike 1; tries that were made again: 1.',
    )
  })

  it('are read up to a line that was cut', () => {
    const text = `${JSON.stringify(results[0])}\n{"mode":"pre`
    expect(readResults(text)).toEqual([results[0]])
  })
})
