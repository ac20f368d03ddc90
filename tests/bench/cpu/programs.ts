/** What `bench cpu` runs in the guest. Sources in `../programs`; a line there says what each one does. */
export interface GuestProgram {
  readonly name: string
  /** compute: the goal of the geometric mean counts these. system: the kernel and what comes with traps and page tables. */
  readonly group: 'compute' | 'system'
  /** Amount of work: a fraction of a second on stock QEMU. */
  readonly n: number
  readonly what: string
  /** The command, for those that are not in our own ELF. */
  readonly command?: (n: number) => string
  /** Its input is text of `n` units. */
  readonly readsText?: true
}

/** Bytes of text for the busybox programs, made in the guest: a unit of `n`. */
const TEXT_BYTES = 1 << 18

export const PROGRAMS: readonly GuestProgram[] = [
  { name: 'mix', group: 'compute', n: 160, what: 'as CoreMark mixes it: list, matrix, state machine, CRC' },
  { name: 'dhry', group: 'compute', n: 800_000, what: 'strings, records, calls' },
  { name: 'crc', group: 'compute', n: 1_000_000, what: 'bits and unpredictable branches' },
  { name: 'list', group: 'compute', n: 5000, what: 'linked list: find, reverse, merge sort through pointers' },
  { name: 'qsort', group: 'compute', n: 150, what: 'recursion, compares' },
  { name: 'sieve', group: 'compute', n: 500, what: 'byte stores with strides' },
  { name: 'matrix', group: 'compute', n: 1000, what: '16-bit products' },
  { name: 'state', group: 'compute', n: 12_000, what: 'state machine over text' },
  { name: 'interp', group: 'compute', n: 12_000, what: 'bytecode interpreter, jump table' },
  { name: 'fib', group: 'compute', n: 4, what: 'calls and returns' },
  { name: 'nbody', group: 'compute', n: 400_000, what: 'doubles, fused multiply-add' },
  { name: 'nbody-unfused', group: 'compute', n: 400_000, what: 'doubles without fused multiply-add' },
  { name: 'stream', group: 'compute', n: 800, what: 'copies and sums of 400 KB arrays' },
  { name: 'chase', group: 'compute', n: 1_000_000, what: 'random walk over 32 MiB' },
  { name: 'syscalls', group: 'system', n: 300_000, what: 'system calls that do nothing' },
  { name: 'faults', group: 'system', n: 40, what: 'page faults: map 1 MiB, touch it, unmap it' },
  { name: 'forks', group: 'system', n: 400, what: 'processes forked, ended and waited for' },
  { name: 'switches', group: 'system', n: 3000, what: 'context switches: a byte through two pipes and back' },
  {
    name: 'gzip',
    group: 'system',
    n: 10,
    what: 'busybox gzip of a file',
    readsText: true,
    command: (n) => `bench -x gzip ${textFile(n)} /bin/busybox gzip -c`,
  },
  {
    name: 'sha256',
    group: 'system',
    n: 40,
    what: 'busybox sha256sum of a file',
    readsText: true,
    command: (n) => `bench -x sha256 ${textFile(n)} /bin/busybox sha256sum`,
  },
]

const textFile = (n: number) => `/tmp/text-${n}`

/** What to type once before the program's runs: its input, if it has one. */
export const preparation = (program: GuestProgram, n: number): string | undefined =>
  program.readsText && `bench -t ${n * TEXT_BYTES} >${textFile(n)}`

export const commandLine = (program: GuestProgram, n: number): string =>
  program.command?.(n) ?? `bench ${program.name} ${n}`

/** CoreMark of EEMBC, where a user has its sources. Checked by its own checksums. */
export const COREMARK: GuestProgram = {
  name: 'coremark',
  group: 'compute',
  n: 2500,
  what: 'CoreMark',
  command: (n) => `coremark 0 0 0x66 ${n}`,
}
