import { IMAGE_FORMATS } from '@ferryvm/block'
import { ACCELERATORS, type Accelerator, DEFAULT_ACCELERATOR } from '@ferryvm/board-virt'
import { Command, Option } from 'commander'
import { isOn, type Keyvals, parseKeyvals, parseSize } from './keyval.ts'
import { UsageError } from './usage-error.ts'

export interface DriveOption {
  readonly id: string
  /** Name of its node, for commands on block devices. */
  readonly node: string
  readonly file: string
  /** Default: what the file looks like. */
  readonly format?: string
  readonly readOnly: boolean
  /** Whoever else uses the file. */
  readonly unlocked: boolean
  /** `if=none`: a -device refers to it; `if=virtio`: a virtio-blk-pci is made for it. */
  readonly interface: 'none' | 'virtio'
}

export interface RunOptions {
  /** As they were given: option and value. */
  readonly given: readonly (readonly string[])[]
  readonly machine: Keyvals
  readonly memoryBytes: number
  /** `-m` was said. */
  readonly memoryGiven: boolean
  readonly harts: number
  readonly accel: Accelerator
  readonly bios?: string
  readonly kernel?: string
  readonly initrd?: string
  readonly append?: string
  /** Parameters of the embedded guest. */
  readonly guest: Keyvals
  readonly drives: readonly DriveOption[]
  /** `backend=…,id=…` and what it needs, in order; each has an id, and none the same. */
  readonly chardevs: readonly Keyvals[]
  /** `type=…,id=…` and what it needs, in order; each has an id, and none the same. */
  readonly netdevs: readonly Keyvals[]
  /** `driver=…` and its properties, in order. */
  readonly devices: readonly Keyvals[]
  readonly plugins: readonly string[]
  /** `type,id=…` and properties, or JSON, in order. */
  readonly objects: readonly string[]
  /** Properties of COLO, see colo/colo-options.ts. */
  readonly colo: Keyvals
  readonly serial: string
  readonly monitor: string
  readonly qmp: readonly string[]
  readonly incoming?: string
  /** The guest runs before its memory has been read; `all`: what nobody touches comes too. */
  readonly lazy?: 'all' | 'touched'
  /** File for what `emu reconcile` needs. */
  readonly postcopyJournal?: string
  /** Name of a snapshot to start from. */
  readonly loadvm?: string
  /** A guest may come unencrypted from other hosts. */
  readonly allowPlaintext: boolean
  readonly startPaused: boolean
  readonly name?: string
  readonly uuid?: string
  readonly reportSections: boolean
  readonly noReboot: boolean
  /** File for a profile of what the guest did. */
  readonly profile?: string
  readonly symbols: readonly SymbolsOption[]
  readonly traces: readonly TraceOption[]
}

export interface TraceOption {
  /** Which events; `help` lists them. */
  readonly enable?: string
  /** A file of patterns, one per line; `-pattern` switches off, `#` begins a comment. */
  readonly events?: string
  /** Where they are written; default: stderr. */
  readonly file?: string
}

/** Names for the addresses in a profile. */
export interface SymbolsOption {
  /** ELF, System.map or a copy of /proc/kallsyms. */
  readonly file: string
  /** Added to its addresses. */
  readonly offset: bigint
}

const DEFAULT_MEMORY = '128M'

const collect = (value: string, before: string[] = []) => [...before, value]

/** The options of `emu run`, with QEMU's names and meanings. */
export function runCommand(
  action: (options: RunOptions, raw: Readonly<Record<string, unknown>>) => Promise<void>,
): Command {
  return new Command('run')
    .description('run a guest; without -kernel the embedded self-checking guest')
    .option('-M, --machine <type>', 'machine type and its properties: virt[,profile=qemu-7.2|qemu-10.0]', collect)
    .option('-m, --memory <size>', `RAM (megabytes, or with suffix); default: ${DEFAULT_MEMORY}`)
    .option('--smp <n>', 'number of harts', '1')
    .option('--cpu <model>', 'rv64')
    .option('--accel <name>', 'jit: compile hot guest code to WebAssembly | interp', DEFAULT_ACCELERATOR)
    .option('--bios <file>', 'firmware (ELF or raw); none: start the kernel in M-mode')
    .option('--kernel <file>', 'kernel (ELF or raw Image)')
    .option('--initrd <file>', 'initial RAM disk')
    .option('--append <text>', 'kernel command line')
    .option(
      '--guest <params>',
      'of the embedded guest: dirtyBytes=16M,dirtyBytesPerSecond=16M,diskRequestsPerSecond=500,…',
    )
    .option(
      '--drive <spec>',
      'file=F[,format=raw|qcow2][,if=none|virtio][,id=I][,node-name=N][,readonly=on][,file.locking=off]',
      collect,
    )
    .option(
      '--chardev <spec>',
      "null|stdio|file,path=F|socket,path=F[,server=on][,wait=off],id=I: a host's end for virtconsole, virtserialport or -serial chardev:I",
      collect,
    )
    .option(
      '--netdev <spec>',
      'user|stream|dgram|socket|hubport,…,id=I: what a virtio-net card with netdev=I is plugged into, with the options of QEMU',
      collect,
    )
    .option('--nic <kind>', 'none: there is no network card unless -device makes one')
    .option('--device <spec>', 'DRIVER[,prop=value…]; "help" lists the drivers', collect)
    .option(
      '--object <spec>',
      'TYPE,id=I[,property=value…]: memory-backend-file, memory-backend-ram, tls-creds-x509, tls-creds-psk, tls-creds-anon, authz-simple, authz-list, authz-list-file, secret',
      collect,
    )
    .option('--plugin <module>', 'load a plugin package or file', collect)
    .option('--nographic', 'serial port and monitor on this terminal (Ctrl-A H for help)')
    .option(
      '--serial <backend>',
      'mon:stdio | stdio | none | file:F | chardev:I | tcp:H:P,server=on | unix:F,server=on',
    )
    .option('--monitor <backend>', 'none | stdio | unix:F,server=on | tcp:H:P,server=on')
    .option('--qmp <backend>', 'stdio | unix:F,server=on | tcp:H:P,server=on', collect)
    .option(
      '--incoming <uri>',
      'wait for a migration: tcp:H:P, unix:F, exec:COMMAND, fd:N, file:F[,offset=N], or defer',
    )
    .addOption(
      new Option(
        '--lazy [pages]',
        'with -incoming of a file with mapped-ram (file:F, https://…): the guest runs at once, its memory is read when it is touched, the rest in the background (all) or not at all (touched)',
      )
        .choices(['all', 'touched'])
        .preset('all'),
    )
    .option(
      '--postcopy-journal <file>',
      'keep what `emu reconcile` needs when the other side of a postcopy migration dies; at the source it costs downtime',
    )
    .option('--loadvm <tag>', 'start from a snapshot (savevm) that the disks have')
    .option(
      '--colo <spec>',
      'for x-colo: dir=D[,hold-output=on|off][,secondary=wait|run]; D has what emu colo up puts there',
    )
    .option('--allow-plaintext', 'take a guest that comes from another host without TLS')
    .option('-S', 'do not start the guest')
    .option('--name <text>', 'name of the machine')
    .option('--uuid <uuid>', 'UUID of the machine')
    .option('--profile <file>', 'writes which functions the guest spent its time in, for speedscope')
    .option(
      '--symbols <file>',
      'for -profile: F[,offset=N]; ELF, System.map or /proc/kallsyms (an ELF -kernel or -bios needs none)',
      collect,
    )
    .option('--trace <spec>', '[enable=]PATTERN[,events=F][,file=F]: write trace events; "help" lists them', collect)
    .option('--no-reboot', 'exit instead of resetting when the guest reboots')
    .addOption(new Option('--nodefaults', 'there are no default devices').hideHelp())
    .addOption(new Option('--display <kind>', 'none').choices(['none']).hideHelp())
    .addOption(
      new Option('--report-sections', 'print every section as it is saved or loaded (stderr, JSON)').hideHelp(),
    )
    .allowExcessArguments(false)
    .action((raw, command) => action({ ...readRunOptions(raw), given: givenOptions(command) }, raw))
}

/** What the command line has, option by option: its long name, and its value if it takes one. */
function givenOptions(command: Command): string[][] {
  return command.options.flatMap((option) => {
    const attribute = option.attributeName()
    if (command.getOptionValueSource(attribute) !== 'cli') return []
    const name = option.long ?? option.short!
    const value: unknown = command.getOptionValue(attribute)
    if (typeof value === 'boolean') return value === option.negate ? [] : [[name]]
    return (Array.isArray(value) ? value : [value]).map((one) => [name, String(one)])
  })
}

function readRunOptions(raw: Record<string, any>): Omit<RunOptions, 'given'> {
  const machine: Keyvals = Object.assign(
    { type: 'virt' },
    ...(raw.machine ?? []).map((m: string) => parseKeyvals(m, 'type')),
  )
  if (machine.type !== 'virt') throw new UsageError(`-M ${machine.type}: unsupported machine type (there is: virt)`)
  const { model = 'rv64', ...cpuProperties } = raw.cpu ? parseKeyvals(raw.cpu, 'model') : {}
  if (model !== 'rv64') throw new UsageError(`-cpu ${model}: unsupported CPU model (there is: rv64)`)
  const property = Object.keys(cpuProperties)[0]
  if (property) {
    throw new UsageError(`-cpu rv64,${property}: no property can be set; what harts have follows from -M virt,profile=`)
  }
  // `tcg`: what command lines for stock QEMU ask for.
  const { accel: named, ...accelProperties } = parseKeyvals(raw.accel, 'accel')
  const accel = named === 'tcg' ? DEFAULT_ACCELERATOR : ACCELERATORS.find((name) => name === named)
  if (!accel) {
    throw new UsageError(`-accel ${raw.accel}: unsupported accelerator (there are: ${ACCELERATORS.join(', ')})`)
  }
  const [accelProperty] = Object.keys(accelProperties)
  if (accelProperty && named !== 'tcg') throw new UsageError(`-accel ${named},${accelProperty}: no property can be set`)
  const memory: string = raw.memory ?? DEFAULT_MEMORY
  const memoryBytes = parseSize(
    /^[0-9.]+[a-z]?$/i.test(memory) ? memory : (parseKeyvals(memory, 'size').size ?? ''),
    'M',
  )
  if (memoryBytes < 2 ** 20 || memoryBytes % 4096 !== 0)
    throw new UsageError(`-m ${memory}: at least 1M, in whole pages`)
  if (memoryBytes > 3 * 2 ** 30) throw new UsageError(`-m ${memory}: at most 3G fit into one WebAssembly memory`)
  const harts = Number(parseKeyvals(raw.smp, 'cpus').cpus)
  if (!Number.isInteger(harts) || harts < 1 || harts > 8) throw new UsageError(`-smp ${raw.smp}: 1 to 8 harts`)

  if (raw.nic !== undefined && raw.nic !== 'none') {
    throw new UsageError(
      `-nic ${raw.nic}: only none is supported; give -netdev …,id=n and -device virtio-net-pci,netdev=n`,
    )
  }
  if (raw.uuid !== undefined && !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(raw.uuid)) {
    throw new UsageError(`-uuid ${raw.uuid}: not a UUID`)
  }

  if (raw.lazy && raw.incoming === undefined) throw new UsageError('-lazy: needs -incoming')

  return {
    machine,
    memoryBytes,
    memoryGiven: raw.memory !== undefined,
    harts,
    accel,
    bios: raw.bios,
    kernel: raw.kernel,
    initrd: raw.initrd,
    append: raw.append,
    guest: raw.guest ? parseKeyvals(raw.guest) : {},
    drives: (raw.drive ?? []).map(readDrive),
    chardevs: withIds('-chardev', raw.chardev ?? [], 'backend'),
    netdevs: withIds('-netdev', raw.netdev ?? [], 'type'),
    devices: (raw.device ?? []).map((d: string) => parseKeyvals(d, 'driver')),
    plugins: raw.plugin ?? [],
    objects: raw.object ?? [],
    colo: raw.colo ? parseKeyvals(raw.colo) : {},
    serial: raw.serial ?? 'mon:stdio',
    monitor: raw.monitor ?? 'none',
    qmp: raw.qmp ?? [],
    incoming: raw.incoming,
    lazy: raw.lazy,
    postcopyJournal: raw.postcopyJournal,
    loadvm: raw.loadvm,
    allowPlaintext: raw.allowPlaintext === true,
    startPaused: raw.S === true,
    name: raw.name && parseKeyvals(raw.name, 'guest').guest,
    uuid: raw.uuid,
    reportSections: raw.reportSections === true,
    noReboot: raw.reboot === false,
    profile: raw.profile,
    symbols: (raw.symbols ?? []).map(readSymbolsOption),
    traces: (raw.trace ?? []).map(readTraceOption),
  }
}

function readTraceOption(text: string): TraceOption {
  const { enable, events, file, ...others } = parseKeyvals(text, 'enable')
  const [unknown] = Object.keys(others)
  if (unknown !== undefined)
    throw new UsageError(`-trace ${text}: there is no ${unknown}= (there are: enable, events, file)`)
  return { enable, events, file }
}

/** @throws UsageError an id is missing, or given twice */
function withIds(option: string, texts: readonly string[], implied: string): Keyvals[] {
  const ids = new Set<string>()
  return texts.map((text) => {
    const keyvals = parseKeyvals(text, implied)
    if (!keyvals.id) throw new UsageError(`${option} ${text}: id= is missing`)
    if (ids.has(keyvals.id)) throw new UsageError(`${option} ${text}: id=${keyvals.id} is taken`)
    ids.add(keyvals.id)
    return keyvals
  })
}

function readSymbolsOption(text: string): SymbolsOption {
  const { file, offset = '0', ...rest } = parseKeyvals(text, 'file')
  if (!file) throw new UsageError(`-symbols ${text}: the file is missing`)
  const unknown = Object.keys(rest)[0]
  if (unknown) throw new UsageError(`-symbols ${text}: unknown option '${unknown}'`)
  if (!/^(0x[0-9a-f]{1,16}|\d{1,18})$/i.test(offset))
    throw new UsageError(`-symbols ${text}: offset=${offset} is not an address`)
  return { file, offset: BigInt(offset) }
}

function readDrive(text: string, index: number): DriveOption {
  const { file, if: kind = 'virtio', id = `drive${index}`, format, readonly, ...rest } = parseKeyvals(text)
  if (!file) throw new UsageError(`-drive ${text}: file= is missing`)
  const known: readonly string[] = IMAGE_FORMATS
  if (format !== undefined && !known.includes(format)) {
    throw new UsageError(`-drive ${text}: format '${format}' is not supported (there are: ${known.join(', ')})`)
  }
  const { 'node-name': node = id, 'file.locking': locking = 'auto' } = rest
  if (kind !== 'none' && kind !== 'virtio')
    throw new UsageError(`-drive ${text}: if=${kind} is not supported (none, virtio)`)
  for (const key of ['cache', 'aio', 'node-name', 'file.locking']) delete (rest as Keyvals)[key]
  const unknown = Object.keys(rest)[0]
  if (unknown) throw new UsageError(`-drive ${text}: unknown option '${unknown}'`)
  return { id, node, file, format, readOnly: isOn(readonly), unlocked: locking === 'off', interface: kind }
}
