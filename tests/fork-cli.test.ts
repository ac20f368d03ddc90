/** `emu fork`: a twin in another process, with disks of its own. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { emu } from './harness/emu.ts'
import { createDisk } from './harness/vm.ts'

it('emu fork runs a twin of a machine in another process, with images over those of its parent', {
  timeout: 240_000,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-fork-cli-'))
  const disk = createDisk(join(folder, 'disk.img'), 8 * 2 ** 20)
  const sockets = ['parent.qmp', 'twin.qmp', 'other.qmp'].map((name) => `unix:${join(folder, name)}`)
  const guestOptions = 'dirtyBytes=4M,dirtyBytesPerSecond=4M,lcgStepsPerSecond=200000,linesPerSecond=20'
  const parent = emu([
    ...['run', '-m', '32M', '-guest', guestOptions, '-drive', `file=${disk},format=raw`],
    ...['-serial', 'stdio', '-monitor', 'none', '-qmp', `${sockets[0]},server=on`],
  ])
  const twins: ReturnType<typeof emu>[] = []
  try {
    await parent.until(/^T 3 /m, 120_000)
    // One, and one of that.
    for (const n of [1, 2]) {
      const twin = emu([
        'fork',
        sockets[n - 1]!,
        '-serial',
        'stdio',
        '-monitor',
        'none',
        '-qmp',
        `${sockets[n]},server=on`,
      ])
      twins.push(twin)
      await twin.until(/T \d+ mem[\s\S]*T \d+ mem/, 120_000)
      expect(twin.out.stderr).toMatch(/the parent stood for \d+ ms/)
    }
  } catch (error) {
    console.error([parent, ...twins].map(({ out }) => out.stderr).join('\n---\n'))
    throw error
  } finally {
    for (const side of [parent, ...twins]) side.type('q')
  }
  try {
    for (const side of [parent, ...twins]) {
      await side.until(/VERDICT [^\n]*\n/, 120_000)
      expect(side.out.stdout).toMatch(/VERDICT ok/)
    }
    // Who wrote to whose disk would have been noticed by the guests.
    const images = readdirSync(folder).filter((name) => name.startsWith('disk.img'))
    expect(images.length).toBe(5)
  } finally {
    for (const side of [parent, ...twins]) {
      side.child.kill('SIGKILL')
      await side.exited
    }
    rmSync(folder, { recursive: true, force: true })
  }
})
