import { parseArgs } from 'node:util'
import { COREMARK, type GuestProgram, PROGRAMS } from './programs.ts'

export interface CpuBenchOptions {
  /** For emu's `-accel`, each measured; empty: its default. */
  readonly accels: readonly string[]
  readonly programs: readonly GuestProgram[]
  readonly repeat: number
  /** Multiplies the amount of work. */
  readonly scale: number
  /** Stock QEMU's command. */
  readonly qemu: string
  readonly ramMiB: number
  /** Where all samples go, as JSON. */
  readonly json?: string
  readonly coremark?: string
  readonly sections: ReadonlySet<Section>
  /** Harts of the parallel load. */
  readonly harts: number
}

/** `programs` and `boot` unless others are asked for. */
export const SECTIONS = ['programs', 'boot', 'memory', 'smp', 'migration', 'peer'] as const
export type Section = (typeof SECTIONS)[number]

export const HELP = `bench cpu [options]: guest programs on emu and on stock QEMU, one after the other; ratios above 1: emu is faster
  --accel A[,B]      emu's -accel; several are measured side by side (default: emu's own)
  --programs A[,B]   only these: ${PROGRAMS.map(({ name }) => name).join(' ')}
  --repeat N         runs of each program on each machine (default 3)
  --scale X          multiplies the amount of work (default 1: a third of a second on stock QEMU)
  --qemu PATH        stock QEMU's command (default qemu-system-riscv64)
  --ram MIB          guest RAM (default 256)
  --coremark DIR     also CoreMark, from its sources in DIR
  --json FILE        writes every sample
  --smp N            instead: N processes on N harts and on one
  --migration        instead: what a migration costs the guest
  --peer v86         instead: the same sources on v86 (x86), as MIPS
  --section A[,B]    any of: ${SECTIONS.join(' ')}`

/** The command line is wrong; the message says how. */
export class OptionError extends Error {
  override readonly name = 'OptionError'
}

/** @returns undefined: help was asked for */
export function parseOptions(args: readonly string[]): CpuBenchOptions | undefined {
  const values = readArgs(args)
  if (values.help) return undefined
  const list = (text: string | undefined) => (text === undefined ? [] : text.split(',').filter(Boolean))
  const amount = (name: 'repeat' | 'scale' | 'ram' | 'smp', otherwise: number) => {
    const value = Number(values[name] ?? otherwise)
    if (!(value > 0 && value < 1e5) || (name !== 'scale' && !Number.isInteger(value)))
      throw new OptionError(`--${name} ${values[name]}: not a number that makes sense`)
    return value
  }
  const wanted = list(values.programs)
  const known = values.coremark ? [COREMARK, ...PROGRAMS] : PROGRAMS
  for (const name of wanted)
    if (!known.some((p) => p.name === name)) throw new OptionError(`--programs ${name}: there is no such program`)
  if (values.peer !== undefined && values.peer !== 'v86') throw new OptionError(`--peer ${values.peer}: there is v86`)
  const sections = new Set<Section>()
  for (const name of list(values.section)) {
    const section = SECTIONS.find((s) => s === name)
    if (!section) throw new OptionError(`--section ${name}: there are ${SECTIONS.join(', ')}`)
    sections.add(section)
  }
  if (values.smp !== undefined) sections.add('smp')
  if (values.migration) sections.add('migration')
  if (values.peer) sections.add('peer')
  if (sections.size === 0) for (const section of ['programs', 'boot', 'memory'] as const) sections.add(section)
  return {
    accels: list(values.accel),
    programs: known.filter((p) => wanted.length === 0 || wanted.includes(p.name)),
    repeat: amount('repeat', 3),
    scale: amount('scale', 1),
    qemu: values.qemu ?? 'qemu-system-riscv64',
    ramMiB: amount('ram', 256),
    json: values.json,
    coremark: values.coremark,
    sections,
    harts: amount('smp', 2),
  }
}

function readArgs(args: readonly string[]) {
  const text = { type: 'string' } as const
  const flag = { type: 'boolean' } as const
  try {
    return parseArgs({
      args: [...args],
      options: {
        accel: text,
        programs: text,
        repeat: text,
        scale: text,
        qemu: text,
        ram: text,
        coremark: text,
        json: text,
        smp: text,
        migration: flag,
        peer: text,
        section: text,
        help: flag,
      },
    }).values
  } catch (cause) {
    throw new OptionError((cause as Error).message, { cause })
  }
}
