/** What a user sees of the compiler: `-accel`, `info jit`, and a profile of what ran compiled. */
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { SpeedscopeFile } from '@ferryvm/machine'
import { Ajv } from 'ajv'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { type EmuProcess, emu } from '../harness/emu.ts'
import { scratchFolder } from '../stock-qemu/stock-qemu.ts'
import { addi, encode, machineCode } from './guest-code.ts'

const scratch = scratchFolder()
afterAll(() => scratch.remove())
const started: EmuProcess[] = []
afterEach(() => {
  for (const { child } of started.splice(0)) child.kill('SIGKILL')
})

/** `main`, at the start of RAM, calls `hot` for ever. */
const HOT = 0x1000
const kernel = join(scratch.path, 'kernel.bin')
const image = new Uint8Array(HOT + 64)
image.set(machineCode([encode('jal', { rd: 1, imm: HOT }), addi(11, 11, 1), encode('jal', { imm: -8 })]))
const rounds = [addi(5, 0, 1000), addi(10, 10, 1), addi(5, 5, -1), encode('bne', { rs1: 5, rs2: 0, imm: -8 })]
image.set(machineCode([...rounds, encode('jalr', { rs1: 1 })]), HOT)
writeFileSync(kernel, image)
const symbols = join(scratch.path, 'System.map')
writeFileSync(symbols, `0000000080000000 T main\n${(0x8000_0000 + HOT).toString(16).padStart(16, '0')} T hot\n`)

/** What `info jit` says, in the monitor beside the guest's line, which this switches to. */
async function infoJit(process: EmuProcess): Promise<string> {
  const from = process.out.stdout.length
  process.type('info jit\n')
  await process.until(/\(qemu\)\s*$/, 30_000, from)
  return process.out.stdout.slice(from).replaceAll('\r', '')
}
async function inMonitor(args: readonly string[]): Promise<EmuProcess> {
  const process = emu(['run', '-serial', 'none', '-monitor', 'stdio', '-kernel', kernel, '-m', '32M', ...args])
  started.push(process)
  await process.until('(qemu)', 60_000)
  return process
}
async function quit(process: EmuProcess): Promise<void> {
  process.type('quit\n')
  expect((await process.exited).code).toBe(0)
}

describe('emu run -accel', { timeout: 120_000 }, () => {
  it.each([
    ['kvm', /-accel kvm: unsupported accelerator \(there are: interp, jit\)/],
    ['jit,threads=3', /-accel jit,threads: no property can be set/],
    ['', /-accel : unsupported accelerator/],
  ])('refuses %j', async (accel, message) => {
    const process = emu(['run', '-nographic', '-accel', accel])
    expect((await process.exited).code).toBe(1)
    expect(process.out.stderr).toMatch(message)
  })

  it('jit: info jit says what was compiled, what it cost and why it was left; a profile names the function', async () => {
    const profile = join(scratch.path, 'profile.json')
    const process = await inMonitor(['-accel', 'jit', '-profile', profile, '-symbols', symbols])
    let info = await infoJit(process)
    while (!/regions: [1-9]/.test(info)) {
      await delay(50)
      info = await infoJit(process)
    }
    expect(info).toMatch(/^accelerator: jit$/m)
    expect(info).toMatch(
      /^regions: \d+ compiled, [1-9]\d* live, 0 ended because their code changed, \d+ refused, 0 failed$/m,
    )
    expect(info).toMatch(/^guest instructions in them: [1-9][\d,]*$/m)
    expect(info).toMatch(/^WebAssembly: [1-9]\d* modules, \d+ KiB$/m)
    expect(info).toMatch(/^time of the harts spent on it: [\d,]+ ms$/m)
    expect(info).toMatch(/^dropped to make room: 0 times$/m)
    expect(info).toMatch(/^why compiled code was left:$/m)
    expect(info).toMatch(/^ {2}poll +[1-9][\d,]* {2}time to look at interrupts and requests$/m)
    await quit(process)

    const file: SpeedscopeFile = JSON.parse(readFileSync(profile, 'utf8'))
    const schema = createRequire(import.meta.url).resolve('speedscope/dist/release/file-format-schema.json')
    const valid = new Ajv({ strict: false }).compile(JSON.parse(readFileSync(schema, 'utf8')))
    expect(valid(file), JSON.stringify(valid.errors)).toBe(true)
    const time = (name: string): number => {
      const { samples, weights } = file.profiles[0]!
      return samples.reduce((sum, stack, i) => {
        const within = stack.some((index) => file.shared.frames[index]!.name === name)
        return within ? sum + weights[i]! : sum
      }, 0)
    }
    expect(time('hot')).toBeGreaterThan(0)
    expect(time('hot')).toBeLessThanOrEqual(time('M-mode'))
    // A thousand instructions of one for each of the other.
    expect(time('hot')).toBeGreaterThan(time('main'))
  })

  it('interp: info jit says that nothing is compiled', async () => {
    const process = await inMonitor(['-accel', 'interp'])
    expect(await infoJit(process)).toMatch(/accelerator: interp \(nothing is compiled\)/)
    await quit(process)
  })
})
