import { describe, expect, it } from 'vitest'
import { createGuestMonitor } from './monitor.ts'

/** Output of a real run (seed 1 in mixed form), as the console shows it. */
const banner = '\r\nferry embedded guest 1 seed d6b2bb7999117717\r\ndisk: none\r\niommu: none\r\nready\r\n'
const rows = [
  'T 1 mem 0 blk 512 lcg d6b2bb7999117717 err 0 chain 6bc9607bccee20dc',
  'T 2 mem 0 blk 558 lcg 77ae487b55405317 err 0 chain 385f047af4fa3ea5',
  'T 3 mem 0 blk 608 lcg a6a424912a936317 err 0 chain 7c3d3159f23950ca',
  'T 4 mem 0 blk 658 lcg 43f3c4e6a7f26f17 err 0 chain 0f38450c511b4d6e',
].map((row) => `${row}\r\n`)

function heard(...chunks: string[]) {
  const monitor = createGuestMonitor()
  for (const chunk of chunks) monitor.push(chunk)
  return monitor
}

describe('createGuestMonitor', () => {
  it('accepts a continuous run cut at any byte', () => {
    const text = banner + rows.join('')
    for (let cut = 0; cut <= text.length; cut++) {
      const monitor = heard(text.slice(0, cut), text.slice(cut))
      expect(monitor.problems).toEqual([])
      expect(monitor.lines).toBe(4)
    }
  })
  it('accepts a run it joins in the middle', () => {
    expect(heard(rows[1], rows[2], rows[3]).problems).toEqual([])
  })
  it('reports a lost line', () => {
    expect(heard(banner, rows[0], rows[1], rows[3]).problems).toEqual(['lost: 1 line(s), from 3 to 3'])
    expect(heard(banner, rows[1]).problems[0]).toMatch(/^lost/)
  })
  it('reports a repeated line', () => {
    expect(heard(banner, rows[0], rows[1], rows[1]).problems[0]).toMatch(/^repeated: line 2/)
  })
  it('reports a line with the right number and another past', () => {
    expect(heard(banner, rows[0], rows[1].replace('blk 558', 'blk 559')).problems[0]).toMatch(/chain does not follow/)
  })
  it('reports a line that lost some of its characters', () => {
    const problems = heard(banner, rows[0], rows[1].slice(0, 20), rows[2].slice(25), rows[3]).problems
    expect(problems[0]).toMatch(/^garbled/)
    expect(problems[1]).toMatch(/^lost/)
  })
  it('reports a guest that starts again', () => {
    expect(heard(banner, rows[0], banner).problems).toContain('restarted: the guest began anew')
  })
  it('parses verdicts and errors', () => {
    const ok = heard('VERDICT ok lines=39 mem=3 blk=2934 iommu=17 lcg=7627776 errors=0\r\n')
    expect(ok.verdicts[0]).toMatchObject({ ok: true, lines: 39, passes: 3, requests: 2934, remaps: 17, errors: 0 })
    expect(ok.problems).toEqual([])
    const bad = heard(
      'ERR 1 mem-older 0x1 0x2 0x3\r\n',
      'VERDICT FAIL mem-older lines=3 mem=0 blk=0 iommu=none errors=1\r\n',
    )
    expect(bad.verdicts[0]).toMatchObject({ ok: false, why: 'mem-older', remaps: undefined, errors: 1 })
    expect(bad.problems).toHaveLength(2)
    expect(heard('VERDICT FAIL trap 0x01 0x02\r\n').verdicts[0]).toMatchObject({ ok: false, why: 'trap 0x01 0x02' })
  })
  it('waits, and gives up with the last output', async () => {
    const monitor = createGuestMonitor()
    const three = monitor.until((m) => m.lines === 3, 1000)
    monitor.push(banner + rows.slice(0, 3).join(''))
    await three
    await expect(monitor.until((m) => m.lines === 4, 10)).rejects.toThrow(/T 3 mem 0/)
  })
})
