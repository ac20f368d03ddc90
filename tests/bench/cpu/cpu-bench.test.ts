import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { scratchFolder, stockQemuCommand, stockQemuMissing } from '../../stock-qemu/stock-qemu.ts'
import { buildGuestFiles, guestFilesMissing } from './guest-files.ts'
import { LinuxMachine, ours, stockQemu } from './linux-machine.ts'
import { measureProgram, ratios, summary } from './measure-programs.ts'
import { OptionError, parseOptions } from './options.ts'
import { measurePeer, peerMissing } from './peer.ts'
import { COREMARK, commandLine, PROGRAMS } from './programs.ts'

const withQemu = stockQemuMissing()
const missing = withQemu ?? (process.env.FERRY_REQUIRE_QEMU ? undefined : guestFilesMissing())

describe.skipIf(missing)(
  `the programs of bench cpu${missing ? ` (skipped: ${missing})` : ''}`,
  { timeout: 240_000 },
  () => {
    const scratch = scratchFolder()
    let emu: LinuxMachine
    let stock: LinuxMachine
    beforeAll(async () => {
      const files = buildGuestFiles(scratch.path)
      stock = await LinuxMachine.boot(stockQemu(stockQemuCommand), files, scratch.path)
      emu = await LinuxMachine.boot(ours(), files, scratch.path)
    }, 240_000)
    afterAll(async () => {
      await emu?.[Symbol.asyncDispose]()
      await stock?.[Symbol.asyncDispose]()
      scratch.remove()
    })

    it('build, and compute the same on emu and on stock QEMU', async () => {
      for (const program of PROGRAMS) {
        const samples = await measureProgram([emu, stock], program, { repeat: 1, scale: 0.005 })
        // Equal results are what measureProgram itself insists on. So short a run may take no time by a clock: no ratios.
        expect([...samples.runs].map(([machine, times]) => [machine.name, times.length])).toEqual([
          [emu.name, 1],
          [stock.name, 1],
        ])
        expect(samples.runs.get(emu)![0].checksum).toBe(samples.runs.get(stock)![0].checksum)
      }
    })

    it('are summed up as ratios of runs that followed each other', () => {
      const [program] = PROGRAMS
      const times = (...seconds: number[]) =>
        seconds.map((s) => ({ checksum: 1, guestSeconds: s, hostSeconds: s, cpuSeconds: 2 * s, hartSeconds: s }))
      const samples = {
        program,
        runs: new Map([
          [emu, times(1, 2, 4)],
          [stock, times(2, 1, 8)],
        ]),
      }
      expect(ratios(samples, emu, stock)).toMatchObject({ median: 2, least: 0.5, most: 2, first: 2, cpu: 2 })
      expect(summary([samples], emu, stock)[0]).toContain(`geometric mean of 1 ${program.group} programs 2.00x`)
    })

    it('include CoreMark where there are its sources: the port keeps its times and checksums', async () => {
      // Not CoreMark: a program that uses the port as CoreMark's own main does.
      const sources = join(scratch.path, 'coremark')
      mkdirSync(sources)
      for (const name of ['core_list_join', 'core_matrix', 'core_state', 'core_util'])
        writeFileSync(join(sources, `${name}.c`), '')
      writeFileSync(
        join(sources, 'coremark.h'),
        '#include "core_portme.h"\nvoid start_time(void);\nvoid stop_time(void);\nee_u32 time_in_secs(CORE_TICKS ticks);\n',
      )
      writeFileSync(
        join(sources, 'core_main.c'),
        `#include "coremark.h"
int main(int argc, char *argv[]) {
  core_portable port;
  portable_init(&port, &argc, argv);
  start_time();
  for (volatile ee_u32 i = 0; i < 1000; i++) {}
  stop_time();
  if (argv[3][2] == '1') ee_printf("[%u]ERROR! list crc 0x%04x - should be 0x%04x\\n", 0, 1, 2);
  ee_printf("[%d]crclist       : 0x%04x\\n", 0, 2);
  ee_printf("[%d]crcfinal      : 0x%04x\\n", 0, 3);
  portable_fini(&port);
}
`,
      )
      const files = buildGuestFiles(scratch.path, sources)
      await using machine = await LinuxMachine.boot(stockQemu(stockQemuCommand), files, scratch.path)
      expect((await machine.run('coremark', commandLine(COREMARK, 5))).checksum).toBe(2 * 65599 + 3)
      await expect(machine.run('coremark', 'coremark 0 0 0x16 5')).rejects.toThrow(/CoreMark's own check failed/)
    })

    it('run in several processes at once', async () => {
      const [mix] = PROGRAMS
      const alone = await emu.run(mix.name, commandLine(mix, 1))
      expect((await emu.run(mix.name, `bench -p 2 ${mix.name} 1`)).checksum).toBe(alone.checksum)
    })

    it('end with a message that names what failed', async () => {
      await expect(emu.run('gzip', 'bench -x gzip /none /bin/busybox gzip -c')).rejects.toThrow(/\/none failed/)
      await expect(emu.run('none', 'bench none 1')).rejects.toThrow(/none failed/)
    })

    it('have a clock that is held beside the host’s', async () => {
      expect(await emu.checkClock()).toMatch(/by the guest's clock/)
    })
  },
)

const withoutX86 = peerMissing()

describe.skipIf(withoutX86)(`bench cpu --peer v86${withoutX86 ? ` (skipped: ${withoutX86})` : ''}`, () => {
  it('runs the same sources on v86, with equal results', { timeout: 120_000 }, async () => {
    const scratch = scratchFolder()
    const lines: string[] = []
    try {
      await measurePeer({
        options: parseOptions(['--peer', 'v86', '--repeat', '1', '--scale', '0.003'])!,
        folder: scratch.path,
        subjects: [ours()],
        reference: stockQemu(stockQemuCommand),
        files: { bios: '', kernel: '', initrd: '' },
        report: (line) => void lines.push(line),
      })
    } finally {
      scratch.remove()
    }
    expect(lines.map((line) => line.split(/ +/)[1])).toEqual(
      expect.arrayContaining(['mix', 'dhry', 'crc', 'nbody-unfused', 'chase', 'geometric']),
    )
    for (const line of lines) expect(line).toMatch(/ \d+\.\d\dx/)
  })
})

describe('the options of bench cpu', () => {
  it('choose programs, machines and sections', () => {
    const options = parseOptions(['--accel', 'interp,jit', '--programs', 'mix,gzip', '--smp', '4', '--scale', '0.5'])!
    expect(options.accels).toEqual(['interp', 'jit'])
    expect(options.programs.map((p) => p.name)).toEqual(['mix', 'gzip'])
    expect([...options.sections]).toEqual(['smp'])
    expect([options.harts, options.scale, options.repeat]).toEqual([4, 0.5, 3])
    expect([...parseOptions([])!.sections]).toEqual(['programs', 'boot', 'memory'])
    expect(parseOptions(['--help'])).toBeUndefined()
  })

  it.each([
    ['--programs', 'mix,none', /no such program/],
    ['--repeat', '0', /--repeat 0/],
    ['--scale', 'much', /--scale much/],
    ['--peer', 'bochs', /there is v86/],
    ['--section', 'all', /there are programs/],
    ['--fast', '1', /--fast/],
  ])('refuse %s %s', (option, value, message) => {
    expect(() => parseOptions([option, value])).toThrow(OptionError)
    expect(() => parseOptions([option, value])).toThrow(message)
  })
})
