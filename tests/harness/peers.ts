/**
 * One guest, three kinds of machines to put it on: ours with either profile, stock QEMU 7.2 and stock QEMU 10.0. All of them
 * boot from the same files with the same devices, so that a guest can move from any to any.
 */
import { closeSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { rawFile } from '@ferryvm/block/node'
import type { DeviceSpec } from '@ferryvm/core'
import type { InterruptControllers } from '@ferryvm/devices-virt'
import { virtioBlk } from '@ferryvm/devices-virtio'
import { MemoryBackend } from '../../apps/emu/src/memory-backend.ts'
import { stockQemu10 } from '../stock-qemu/stock-10.ts'
import { startStockQemu } from '../stock-qemu/stock-qemu.ts'
import { giveDescriptor, type QmpSpeaker } from './give-descriptor.ts'
import { HOST, tlsObjects } from './tls-folders.ts'
import { createVm } from './vm.ts'

/** `emu-7.2` and `emu-10.0` are ours with the profile of that release. */
export type PeerKind = 'emu-7.2' | 'emu-10.0' | '7.2' | '10.0'

export interface PeerBoot {
  readonly bios?: string
  readonly kernel: string
  readonly initrd?: string
  readonly append?: string
  readonly ramBytes: number
  readonly harts?: number
  /** RAM is kept in that file, as memory back-end `mem0`. */
  readonly ramFile?: string
  readonly disk?: { readonly path: string; readonly bus: 'pcie.0' | 'virtio-mmio' }
  /** `-M virt,aia=` and `aia-guests=`. Default: the PLIC. */
  readonly interrupts?: InterruptControllers
  /** More for stock QEMU only: `-cpu rv64,zicboz=off`. */
  readonly stockArgs?: readonly string[]
  /** More for ours only, behind the disk. */
  readonly devices?: readonly DeviceSpec[]
  /** Stock machines have a user network back-end, as they do without -nodefaults: its state is in their streams. */
  readonly userNet?: boolean
  /** The guest goes before its memory. */
  readonly postcopy?: PostcopyOptions
  /** Its migrations go over TLS, with the files of that folder. */
  readonly tls?: { readonly kind: 'x509' | 'psk' | 'anon'; readonly dir: string }
  /** A descriptor of this process, given away: what {@link Peer.incomingFd} is for the peer. */
  readonly incomingFd?: number
  /** See `rv64`; for ours. */
  readonly timerNudge?: boolean
  onOutput(text: string): void
}

export interface PostcopyOptions {
  readonly preempt?: boolean
  /** Bytes per second until the switch, so that something is left for after it. Default 4 MiB. */
  readonly precopyBandwidth?: number
  /** Bytes per second after the switch, beside what is asked for. Default 0: as fast as it goes. */
  readonly bandwidth?: number
}

export interface MoveTimes {
  /** As the sender says it. */
  readonly totalMs: number
  /** From the sender's STOP to the receiver's RESUME. */
  readonly downtimeMs: number
  /** What the guest waited for, and got, after it had moved. */
  readonly postcopy?: { readonly requests: number; readonly bytes: number }
}

/** What the sender knows. */
export type SendTimes = Omit<MoveTimes, 'downtimeMs'>

/** What both sides of a migration are told before it. */
export interface MigrationSettings {
  readonly capabilities?: readonly string[]
  readonly parameters?: Readonly<Record<string, unknown>>
}

export interface Peer extends AsyncDisposable {
  readonly kind: PeerKind
  type(text: string): void
  start(): Promise<void>
  /** Waits for a guest; resolves with the address to send it to. */
  listen(uri: string, options?: { readonly lazy?: boolean }): Promise<string>
  /** Resolves when the guest was sent. */
  send(uri: string): Promise<SendTimes>
  configure(settings: MigrationSettings): Promise<void>
  /** `query-migrate`. */
  info(): Promise<any>
  /** `migrate-continue`, out of pre-switchover. */
  continueSwitchover(): Promise<void>
  /** After the sender is done: resolves when the guest runs here. @throws why it could not be loaded */
  arrived(): Promise<void>
  /** `migrate-pause`. */
  pause(): Promise<void>
  /** `migrate-recover`: resolves with the address to resume to. */
  recover(uri: string): Promise<string>
  /** `migrate` with `resume`. */
  resume(uri: string): Promise<void>
  /** Address of the descriptor that it was created with. */
  readonly incomingFd: string
  /** Gives it a descriptor of this process to send to; resolves with its address. */
  give(descriptor: number): Promise<string>
  /** When its guest stopped and went on for the last time, ms since 1970. */
  readonly stoppedAtMs: number
  readonly resumedAtMs: number
}

/** `source`: boots the guest when it is started; `destination`: waits for one. */
export type PeerRole = 'source' | 'destination'

export async function createPeer(kind: PeerKind, role: PeerRole, boot: PeerBoot, folder: string): Promise<Peer> {
  return kind.startsWith('emu') ? emuPeer(kind, role, boot) : stockPeer(kind, role, boot, folder)
}

/** How two peers meet. Addresses say different things to each of them, and files are complete before they are read. */
export interface Passage {
  /** What the receiver listens to; the sender's address is what that resolves to, unless it is said here. */
  readonly listen: string
  readonly send?: string
  readonly kept?: boolean
}

/**
 * Moves the guest; `from` is closed afterwards.
 * @param steer what somebody at the sender's monitor does meanwhile
 */
export async function movePeer(
  from: Peer,
  to: Peer,
  { listen, send, kept = false }: Passage = { listen: 'tcp:127.0.0.1:0' },
  steer: (from: Peer) => Promise<void> = async () => {},
): Promise<MoveTimes> {
  const saved = kept ? await from.send(send!) : undefined
  const address = await to.listen(listen)
  const sent = saved ?? from.send(send ?? address)
  const arrived = to.arrived()
  try {
    const [times] = await Promise.all([sent, arrived, steer(from)])
    const downtimeMs = to.resumedAtMs - from.stoppedAtMs
    await from[Symbol.asyncDispose]()
    return { ...times, downtimeMs }
  } catch (error) {
    // The receiver knows why; its sender may only have lost the connection.
    const why = await Promise.race([arrived.then(nothing, (e: Error) => e), delay(2000)])
    throw why ?? error
  }
}
const nothing = () => undefined
const nowMs = () => performance.timeOrigin + performance.now()

/** Value of -object. */
const tlsObject = (role: PeerRole, { kind, dir }: NonNullable<PeerBoot['tls']>) =>
  `tls-creds-${kind},id=tls0,dir=${dir},endpoint=${role === 'source' ? 'client' : 'server'}`
const TLS_PARAMETERS = { 'tls-creds': 'tls0', 'tls-hostname': HOST }

async function emuPeer(kind: PeerKind, role: PeerRole, boot: PeerBoot): Promise<Peer> {
  const bytes = (path: string | undefined) => (path === undefined ? undefined : readFileSync(path))
  const { disk } = boot
  const memory = boot.ramFile === undefined ? undefined : await ramInFile(boot.ramFile, boot.ramBytes)
  const vm = await createVm({
    profile: kind === 'emu-7.2' ? 'qemu-7.2' : 'qemu-10.0',
    bios: bytes(boot.bios),
    kernel: bytes(boot.kernel),
    initrd: bytes(boot.initrd),
    append: boot.append,
    ramBytes: boot.ramBytes,
    harts: boot.harts,
    interrupts: boot.interrupts,
    ram: memory && { idstr: memory.id, backing: memory.backing },
    timerNudge: boot.timerNudge,
    checkLoadOrder: true,
    devices: [
      ...(disk ? [virtioBlk({ drive: await rawFile(disk.path) }, { bus: disk.bus })] : []),
      ...(boot.devices ?? []),
    ],
    onOutput: boot.onOutput,
    ...(boot.tls && {
      migrationOptions: { channelLayers: (await tlsObjects(tlsObject(role, boot.tls))).channelLayers },
    }),
  })
  if (boot.tls) vm.migration.setParameters(TLS_PARAMETERS)
  let done: Promise<void> | undefined
  if (boot.postcopy) {
    vm.migration.setCapabilities(postcopyCapabilities(boot.postcopy))
    vm.migration.setParameters(precopyLimit(boot.postcopy))
  }
  let stoppedAtMs = Number.NaN
  let resumedAtMs = Number.NaN
  vm.machine.on('stop', () => void (stoppedAtMs = nowMs()))
  vm.machine.on('resume', () => void (resumedAtMs = nowMs()))
  return {
    kind,
    get stoppedAtMs() {
      return stoppedAtMs
    },
    get resumedAtMs() {
      return resumedAtMs
    },
    incomingFd: `fd:${boot.incomingFd}`,
    give: async (descriptor) => `fd:${descriptor}`,
    type: (text) => vm.type(text),
    async start() {
      vm.machine.start()
    },
    async listen(uri, options) {
      const run = await vm.migration.incoming(uri, options)
      done = run.done
      return run.uri
    },
    async send(uri) {
      const { done: sent } = vm.migration.start(uri)
      if (boot.postcopy) {
        while (vm.migration.status === 'setup') await delay(1)
        await delay(SWITCH_AFTER_MS)
        vm.migration.startPostcopy()
      }
      await sent
      return sendTimes(vm.migration.info())
    },
    async configure({ capabilities, parameters = {} }) {
      if (capabilities) vm.migration.setCapabilities(capabilities.map((capability) => ({ capability, state: true })))
      vm.migration.setParameters(parameters)
    },
    info: async () => vm.migration.info(),
    continueSwitchover: async () => vm.migration.continueSwitchover(),
    arrived: async () => done,
    pause: async () => vm.migration.pause(),
    recover: (uri) => vm.migration.recover(uri),
    resume: async (uri) => void vm.migration.start(uri, { resume: true }),
    async [Symbol.asyncDispose]() {
      await vm[Symbol.asyncDispose]()
      await memory?.close()
    },
  }
}

const ramObject = (path: string, bytes: number) => `memory-backend-file,id=mem0,size=${bytes},mem-path=${path},share=on`

async function ramInFile(path: string, bytes: number): Promise<MemoryBackend> {
  const backend = MemoryBackend.among([ramObject(path, bytes)]).backends[0]!
  await backend.open()
  return backend
}

/** Long enough for a few pages, and not for all. */
const SWITCH_AFTER_MS = 300

const sendTimes = (info: any): SendTimes => ({
  totalMs: info['total-time'],
  postcopy: { requests: info.ram['postcopy-requests'], bytes: info.ram['postcopy-bytes'] },
})
const postcopyCapabilities = ({ preempt = false }: PostcopyOptions) =>
  ['postcopy-ram', ...(preempt ? ['postcopy-preempt'] : [])].map((capability) => ({ capability, state: true }))
const precopyLimit = ({ precopyBandwidth = 4 * 2 ** 20, bandwidth = 0 }: PostcopyOptions) => ({
  'max-bandwidth': precopyBandwidth,
  'max-postcopy-bandwidth': bandwidth,
})

function stockBoard({ interrupts = { kind: 'plic' } }: PeerBoot): string {
  if (interrupts.kind === 'plic') return 'virt'
  return interrupts.kind === 'aplic' ? 'virt,aia=aplic' : `virt,aia=aplic-imsic,aia-guests=${interrupts.guests}`
}

async function stockPeer(kind: PeerKind, role: PeerRole, boot: PeerBoot, folder: string): Promise<Peer> {
  const binary = kind === '10.0' ? stockQemu10() : undefined
  if (kind === '10.0' && !binary) throw new Error('stock QEMU 10.0 is not here')
  const decoder = new TextDecoder()
  const { disk } = boot
  const times: Record<string, number> = {}
  const inherit = boot.incomingFd === undefined ? [] : [boot.incomingFd]
  let monitor: QmpSpeaker | undefined
  const driver = disk?.bus === 'virtio-mmio' ? 'virtio-blk-device' : 'virtio-blk-pci'
  const qemu = await startStockQemu(
    folder,
    [
      ...['-M', stockBoard(boot), '-m', `${boot.ramBytes / 2 ** 20}M`, '-smp', `${boot.harts ?? 1}`],
      ...['-bios', boot.bios ?? 'none', '-kernel', boot.kernel],
      ...(boot.initrd ? ['-initrd', boot.initrd] : []),
      ...(boot.append ? ['-append', boot.append] : []),
      ...(disk
        ? ['-drive', `file=${disk.path},if=none,id=d,format=raw,file.locking=off`, '-device', `${driver},drive=d`]
        : []),
      ...(boot.userNet ? ['-netdev', 'user,id=net0'] : []),
      ...(boot.tls ? ['-object', tlsObject(role, boot.tls)] : []),
      ...(boot.ramFile === undefined
        ? []
        : ['-object', ramObject(boot.ramFile, boot.ramBytes), '-machine', 'memory-backend=mem0']),
      ...(boot.stockArgs ?? []),
      ...(role === 'source' ? ['-S'] : ['-incoming', 'defer']),
    ],
    (chunk) => boot.onOutput(decoder.decode(chunk, { stream: true })),
    binary,
    { inherit, onEvent: ({ name, atMs }) => void (times[name] = atMs) },
  )
  if (boot.tls) await qemu.qmp('migrate-set-parameters', TLS_PARAMETERS)
  if (boot.postcopy) {
    await qemu.qmp('migrate-set-capabilities', { capabilities: postcopyCapabilities(boot.postcopy) })
    await qemu.qmp('migrate-set-parameters', precopyLimit(boot.postcopy))
  }
  for (const descriptor of inherit) closeSync(descriptor) // it has them now
  const listening = async (uri: string, besides?: string): Promise<string> => {
    if (!uri.startsWith('tcp:')) return uri
    for (;;) {
      const { 'socket-address': at } = await qemu.qmp('query-migrate')
      if (at && at.at(-1).port !== besides) return `tcp:127.0.0.1:${at.at(-1).port}`
      await delay(5)
    }
  }
  return {
    kind,
    pause: () => qemu.qmp('migrate-pause'),
    async recover(uri) {
      const { 'socket-address': before } = await qemu.qmp('query-migrate')
      await qemu.qmp('migrate-recover', { uri })
      return listening(uri, before?.at(-1).port)
    },
    resume: (uri) => qemu.qmp('migrate', { uri, resume: true }),
    get stoppedAtMs() {
      return times.STOP ?? Number.NaN
    },
    get resumedAtMs() {
      return times.RESUME ?? Number.NaN
    },
    incomingFd: 'fd:3',
    async give(descriptor) {
      monitor = await giveDescriptor(qemu.qmpPath, 'out', descriptor)
      return 'fd:out'
    },
    type: (text) => qemu.type(text),
    async start() {
      await qemu.qmp('cont')
    },
    async listen(uri) {
      await qemu.qmp('migrate-incoming', { uri })
      return listening(uri)
    },
    async send(uri) {
      const sent = qemu.migrate(uri, { monitor })
      if (boot.postcopy) {
        while ((await qemu.qmp('query-migrate')).status === 'setup') await delay(1)
        await delay(SWITCH_AFTER_MS)
        await qemu.qmp('migrate-start-postcopy')
      }
      await sent
      return sendTimes(await qemu.qmp('query-migrate'))
    },
    async configure({ capabilities, parameters = {} }) {
      const all = capabilities?.map((capability) => ({ capability, state: true }))
      if (all) await qemu.qmp('migrate-set-capabilities', { capabilities: all })
      await qemu.qmp('migrate-set-parameters', parameters)
    },
    info: () => qemu.qmp('query-migrate'),
    async continueSwitchover() {
      await qemu.qmp('migrate-continue', { state: 'pre-switchover' })
    },
    async arrived() {
      for (;;) {
        const ended = await Promise.race([qemu.exited, qemu.qmp('query-status').catch(() => undefined)])
        if (typeof ended !== 'object') throw new Error(`stock QEMU refused the stream: ${qemu.stderr}`)
        if (ended.status === 'running') {
          if (!boot.postcopy || (await qemu.qmp('query-migrate')).status === 'completed') return
          await delay(2)
          continue
        }
        if (ended.status !== 'inmigrate') throw new Error(`the guest arrived and is ${ended.status}`)
        await delay(2)
      }
    },
    [Symbol.asyncDispose]: () => qemu.kill(),
  }
}
