/** `emu run -profile`: what a guest did, with its own names, as a file that speedscope opens. */
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { SpeedscopeFile } from '@ferryvm/machine'
import { Ajv } from 'ajv'
import { afterAll, describe, expect, it } from 'vitest'
import { buildGuestFiles, guestFilesMissing } from './bench/cpu/guest-files.ts'
import { LinuxMachine, ours } from './bench/cpu/linux-machine.ts'
import { emu } from './harness/emu.ts'
import { scratchFolder } from './stock-qemu/stock-qemu.ts'

const scratch = scratchFolder()
afterAll(() => scratch.remove())

/** Published with speedscope itself. */
const schema = JSON.parse(
  readFileSync(createRequire(import.meta.url).resolve('speedscope/dist/release/file-format-schema.json'), 'utf8'),
)
const isValid = new Ajv({ strict: false }).compile(schema)

function read(path: string): SpeedscopeFile {
  const file = JSON.parse(readFileSync(path, 'utf8'))
  expect(isValid(file), JSON.stringify(isValid.errors)).toBe(true)
  return file
}

/** Milliseconds by frame, innermost or not. */
function timeOf(file: SpeedscopeFile, hart: number): Map<string, number> {
  const time = new Map<string, number>()
  const { samples, weights } = file.profiles[hart]
  samples.forEach((stack, i) => {
    for (const index of stack) {
      const { name } = file.shared.frames[index]
      time.set(name, (time.get(name) ?? 0) + weights[i])
    }
  })
  return time
}

const missing = process.env.FERRY_REQUIRE_QEMU ? undefined : guestFilesMissing()

describe.skipIf(missing)(`a profile of Linux${missing ? ` (skipped: ${missing})` : ''}`, { timeout: 180_000 }, () => {
  it('names functions of the program and of the kernel, by privilege mode, and shows the idle time', async () => {
    const files = buildGuestFiles(scratch.path)
    const path = join(scratch.path, 'linux.json')
    const emulator = ours()
    const profiling = [...emulator.args, '-profile', path, '-symbols', join(scratch.path, 'bench')]
    {
      await using machine = await LinuxMachine.boot({ ...emulator, args: profiling }, files, scratch.path, { harts: 2 })
      await machine.run('crc', 'bench crc 300000')
      await machine.run('faults', 'bench faults 20')
      await machine.shell('sleep 1')
      await machine.qmp('quit').catch(() => {})
      expect(await machine.exited).toBe(0)
    }
    const file = read(path)
    expect(file.profiles.map((p) => p.name)).toEqual(['hart 0', 'hart 1'])
    for (const profile of file.profiles) {
      expect(profile.samples.length).toBe(profile.weights.length)
      expect(profile.endValue).toBeCloseTo(profile.weights.reduce((sum, w) => sum + w, 0))
    }
    const harts = [timeOf(file, 0), timeOf(file, 1)]
    const total = (name: string) => harts.reduce((sum, time) => sum + (time.get(name) ?? 0), 0)
    // The program: its functions are the ELF's.
    expect(total('crc_byte')).toBeGreaterThan(0)
    expect(total('crc_byte')).toBeLessThanOrEqual(total('U-mode'))
    // The kernel: its own names, from its memory. Every boot decompresses and every page fault clears a page.
    const frames = file.shared.frames.filter((frame) => frame.file === 'kallsyms').map((frame) => frame.name)
    expect(frames).toContain('clear_page')
    expect(frames.length).toBeGreaterThan(50)
    expect(total('S-mode')).toBeGreaterThan(total('clear_page'))
    expect(total('M-mode')).toBeGreaterThan(0)
    // Two harts, one program, a second of sleep.
    expect(total('idle (wfi)')).toBeGreaterThan(1000)
    expect(frames.length / file.shared.frames.length).toBeGreaterThan(0.7)
  })
})

describe('emu run -profile', () => {
  it('writes the file when it is told to end by a signal', { timeout: 60_000 }, async () => {
    const path = join(scratch.path, 'embedded.json')
    const process = emu(['run', '-nographic', '-profile', path])
    await process.until(/\S/)
    process.child.kill('SIGTERM')
    expect((await process.exited).code).toBe(143)
    const time = timeOf(read(path), 0)
    expect(time.get('M-mode') ?? time.get('idle (wfi)')).toBeGreaterThan(0)
  })

  it.each([
    [['-profile', '/nowhere/p.json'], /-profile \/nowhere\/p\.json: ENOENT: no such file or directory/],
    [['-profile', '/tmp'], /-profile \/tmp: EISDIR/],
    [['-profile', 'p.json', '-symbols', '/nowhere/map'], /-symbols \/nowhere\/map: ENOENT/],
    [['-profile', 'p.json', '-symbols', '/etc/passwd'], /passwd: line 1 is not "address type name".*FERRY_SYMBOL_FILE/],
    [['-profile', 'p.json', '-symbols', '/etc/passwd,offset=x'], /offset=x is not an address/],
    [['-symbols', '/etc/passwd'], /-symbols \/etc\/passwd: needs -profile/],
  ])('refuses %j', async (options, message) => {
    const process = emu(['run', '-nographic', ...options], scratch.path)
    expect((await process.exited).code).toBe(1)
    expect(process.out.stderr).toMatch(message)
    expect(existsSync(join(scratch.path, 'p.json'))).toBe(false)
  })
})
