import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { gzipSync, zstdDecompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { emu } from './harness/emu.ts'

const fixtures = resolve(import.meta.dirname, '../packages/stream/src/__fixtures__')
let folder: string
const path = (name: string) => join(folder, name)
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ferryvm-stream-'))
  for (const name of ['rv72-bm-pci-smp2', 'rv100-bm-pci-smp2'])
    writeFileSync(path(`${name}.mig`), zstdDecompressSync(readFileSync(join(fixtures, `${name}.mig.zst`))))
})
afterAll(() => rmSync(folder, { recursive: true }))

async function run(args: string[], stdin?: Uint8Array) {
  const process = emu(args, folder)
  if (stdin) process.child.stdin!.end(stdin)
  const { code } = await process.exited
  return { code, ...process.out }
}

describe('emu on streams', { timeout: 30_000 }, () => {
  it('inspect prints sections and fields, of a file, of a pipe, and of a migration that comes in', async () => {
    const file = await run(['inspect', 'rv72-bm-pci-smp2.mig'])
    expect(file.code).toBe(0)
    expect(file.stdout).toMatch(/machine virt\n/)
    expect(file.stdout).toMatch(/full {6}2 {8}2 {9}24 {2}timer\/0|full +\d+ +2 +24 +timer\/0/)
    expect(file.stdout).toMatch(/env\.satp = 0x800000000008001e/)
    const bytes = readFileSync(path('rv72-bm-pci-smp2.mig'))
    expect((await run(['inspect', '-'], bytes)).stdout).toBe(file.stdout)

    const listening = emu(['inspect', 'tcp:127.0.0.1:0'], folder)
    while (!/waiting on tcp:\S+:(\d+)/.test(listening.out.stderr)) await new Promise((r) => setTimeout(r, 20))
    const port = Number(/waiting on tcp:\S+:(\d+)/.exec(listening.out.stderr)![1])
    // A sender with a return path does not end: it waits for an answer.
    const sender = connect(port, '127.0.0.1')
    sender.on('error', () => {})
    sender.write(bytes)
    expect((await listening.exited).code).toBe(0)
    expect(listening.out.stdout).toBe(file.stdout)
    sender.destroy()
  })

  it('inspect --json is JSON, and a broken stream ends with status 1 and its place', async () => {
    const { stdout } = await run(['inspect', '--json', 'rv100-bm-pci-smp2.mig'])
    const report = JSON.parse(stdout)
    expect(report.configuration.machine).toBe('virt')
    expect(report.sections.find((s: { idstr: string }) => s.idstr === 'riscv_mtimer').fields.timecmp).toHaveLength(2)
    writeFileSync(path('cut.mig'), readFileSync(path('rv72-bm-pci-smp2.mig')).subarray(0, 400_000))
    const cut = await run(['inspect', '--no-fields', 'cut.mig'])
    expect(cut.code).toBe(1)
    expect(cut.stdout).toMatch(/stopped at offset 0x61a80 in 0000:00:02.0\/virtio-rng\/0: the stream ends/)
  })

  it('edit changes a field, and diff shows it', async () => {
    const edit = await run(['edit', 'rv72-bm-pci-smp2.mig', '--set', 'serial/0:ier=7', '-o', 'edited.mig'])
    expect([edit.code, edit.stderr]).toEqual([0, 'edited.mig: changed serial/0\n'])
    const diff = await run(['diff', 'rv72-bm-pci-smp2.mig', 'edited.mig'])
    expect([diff.code, diff.stdout]).toEqual([1, 'serial/0:\n  serial.ier: 1 | 7\n'])
    expect((await run(['diff', 'edited.mig', 'edited.mig'])).code).toBe(0)
  })

  it('what is no stream is called by its name, and diff ends with 2 then', async () => {
    writeFileSync(path('packed.gz'), gzipSync(readFileSync(path('rv72-bm-pci-smp2.mig'))))
    const packed = await run(['inspect', 'packed.gz'])
    expect([packed.code, packed.stdout]).toEqual([1, expect.stringContaining('it starts as what gzip writes does')])
    expect((await run(['diff', 'packed.gz', 'packed.gz'])).code).toBe(2)
  })

  it('edit, upgrade and vmstate dump say what they did as JSON', async () => {
    const edit = await run(['edit', 'rv72-bm-pci-smp2.mig', '--set', 'serial/0:ier=7', '-o', 'edited.mig', '--json'])
    expect([JSON.parse(edit.stdout), edit.stderr]).toEqual([{ output: 'edited.mig', changed: ['serial/0'] }, ''])
    const upgrade = await run(['upgrade', 'rv72-bm-pci-smp2.mig', '--to', '10.0', '-o', 'new.mig', '--json'])
    expect(JSON.parse(upgrade.stdout)).toMatchObject({
      output: 'new.mig',
      changed: expect.arrayContaining(['cpu/0', 'cpu/1']),
      bytes: expect.any(Number),
    })
    const both = await run(['edit', 'rv72-bm-pci-smp2.mig', '--set', 'serial/0:ier=7', '-o', '-', '--json'])
    expect([both.code === 0, both.stdout]).toEqual([false, ''])
    const [dump, line] = [await run(['vmstate', 'dump']), await run(['vmstate', 'dump', '--json'])]
    expect(line.stdout.trimEnd().split('\n')).toHaveLength(1)
    expect(JSON.parse(line.stdout)).toEqual(JSON.parse(dump.stdout))
  })

  it('a refused edit leaves no file', async () => {
    const edit = await run(['edit', 'rv72-bm-pci-smp2.mig', '--set', 'serial/0:ier=700', '-o', 'none.mig'])
    expect(edit.code).toBe(1)
    expect(edit.stderr).toMatch(/out of range: 0 to 255 \[FERRY_STREAM_FIELD\]/)
    expect(() => readFileSync(path('none.mig'))).toThrow(/ENOENT/)
    expect(() => readFileSync(path('none.mig.part'))).toThrow(/ENOENT/)
  })

  it('explain names the reason and the way out, and upgrade goes it', async () => {
    const before = await run(['explain', 'rv72-bm-pci-smp2.mig', '--for', '10.0'])
    expect(before.code).toBe(1)
    expect(before.stdout).toMatch(/cpu: incoming version_id 5 is too old/)
    expect(before.stdout).toMatch(/way out: emu upgrade --to 10.0/)
    const upgrade = await run(['upgrade', 'rv72-bm-pci-smp2.mig', '--to', '10.0', '-o', 'new.mig'])
    expect([upgrade.code, upgrade.stderr]).toEqual([0, expect.stringMatching(/converted cpu\/0, cpu\/1/)])
    expect((await run(['explain', 'new.mig', '--for', '10.0'])).code).toBe(0)
  })

  it('vmstate dump and check: a profile against itself and against the other', async () => {
    for (const profile of ['7.2', '10.0'])
      writeFileSync(
        path(`${profile}.json`),
        (await run(['vmstate', 'dump', '-M', `virt,profile=qemu-${profile}`])).stdout,
      )
    const same = await run(['vmstate', 'check', '7.2.json', '7.2.json'])
    expect([same.code, same.stdout]).toEqual([0, 'nothing that travels has changed\n'])
    const other = await run(['vmstate', 'check', '7.2.json', '10.0.json'])
    expect(other.code).toBe(1)
    expect(other.stdout).toMatch(/breaks cpu: the oldest version that loads is 10; the old build sends 5/)
    expect((await run(['explain', 'rv72-bm-pci-smp2.mig', '--for', '7.2.json'])).code).toBe(0)
    expect((await run(['explain', 'rv100-bm-pci-smp2.mig', '--for', '7.2.json'])).code).toBe(1)
  })

  it.each([
    [['inspect', 'nowhere.mig'], /nowhere.mig: ENOENT/],
    [['inspect', '.'], /this is a folder/],
    [['explain', 'rv72-bm-pci-smp2.mig', '--for', '6.0'], /6.0: neither a known receiver \(7.2, 10.0\) nor a file/],
    [['explain', 'rv72-bm-pci-smp2.mig', '--for', 'rv72-bm-pci-smp2.mig'], /mig: this is not JSON; expected/],
    [['vmstate', 'check', 'no.json', 'no.json'], /no.json: cannot be read: ENOENT/],
    [['inspect', '--page-size', '3K', 'rv72-bm-pci-smp2.mig'], /--page-size 3K: pages have/],
    [['inspect', '--buffer-bytes', 'x', 'rv72-bm-pci-smp2.mig'], /'x' is not a number/],
    [['diff', '-', '-'], /standard input can be read once/],
    [['edit', 'rv72-bm-pci-smp2.mig', '--set', 'serial/0:ier=1', '-o', '.'], /-o .: this is a folder/],
    [['upgrade', 'rv72-bm-pci-smp2.mig', '--to', '8.0', '-o', 'x'], /--to 8.0: there are 7.2, 10.0/],
    [['edit', 'rv72-bm-pci-smp2.mig', '--set', 'ier=1', '-o', 'x'], /expected section\/instance:field=value/],
  ])('%j is refused in one line', async (args, message) => {
    const { code, stdout, stderr } = await run(args)
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toMatch(message)
    expect(stderr.trim().split('\n')).toHaveLength(1)
  })
})
