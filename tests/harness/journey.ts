/** A Linux guest's way over several machines: what tests and the full matrix have in common. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { InterruptControllers } from '@ferryvm/devices-virt'
import { buildLinuxInitramfs, findLinuxGuest } from '../../tooling/guest/linux-guest.ts'
import {
  createLinuxWorkloadMonitor,
  type LinuxWorkloadMonitor,
  linuxWorkload,
} from '../../tooling/guest/linux-workload.ts'
import { createDescriptors, passage, type TransportName } from './passages.ts'
import {
  createPeer,
  type MoveTimes,
  movePeer,
  type Peer,
  type PeerBoot,
  type PeerKind,
  type PostcopyOptions,
} from './peers.ts'
import { createDisk } from './vm.ts'

export interface Journey {
  readonly machines: readonly PeerKind[]
  /** `load`: checks itself, with disk and memory; `idle`: a shell that nobody types into while it moves. */
  readonly guest: 'load' | 'idle'
  readonly bus: 'pcie.0' | 'virtio-mmio'
  readonly harts?: number
  /** Default: the PLIC. */
  readonly interrupts?: InterruptControllers
  readonly transport?: TransportName
  /** `-cpu` of stock 10.0 machines: without extensions that 7.2 lacks, a guest that booted there can go to 7.2. */
  readonly cpu10?: string
  /** `-dtb` of a stock machine that boots the guest. */
  readonly deviceTree?: string
  /** False: ours sends timers as they are. */
  readonly timerNudge?: boolean
  readonly postcopy?: PostcopyOptions
  /** Stock machines have a user network back-end. */
  readonly userNet?: boolean
  /** How long the guest may take to show that it goes on. Default two minutes: at load 20 on two cores 40 s were seen. */
  readonly answerMs?: number
  /** Hops, from 0, after which it is expected to be silent instead. */
  readonly silentAfter?: readonly number[]
}

export interface Hop extends MoveTimes {
  readonly from: PeerKind
  readonly to: PeerKind
}

/** Long enough for a guest that was going to sleep to be asleep. */
const ASLEEP_MS = 700
const SLEEP_S = 3
let journeys = 0

/** Filled while a guest is on its way: what happened is known when it fails, too. */
export interface TravelLog {
  readonly moved: Hop[]
  /** How many of them the guest answered after. */
  answered: number
}

/**
 * Boots Linux on the first machine and moves it from each to the next; after every arrival the guest must show that it goes
 * on and that memory and disk are whole. Ends with the guest's own verdict.
 * @throws what the guest found, or that it fell silent, or why a machine refused it
 */
export async function travel(
  journey: Journey,
  folder: string,
  log: TravelLog = { moved: [], answered: 0 },
): Promise<readonly Hop[]> {
  const {
    machines,
    bus,
    harts,
    interrupts,
    transport = 'tcp',
    cpu10,
    timerNudge,
    userNet,
    postcopy,
    deviceTree,
  } = journey
  const linux = findLinuxGuest()!
  const id = ++journeys
  const initrd = join(folder, `initrd-${id}.gz`)
  const load = journey.guest === 'load'
  writeFileSync(initrd, buildLinuxInitramfs(linux, load ? { initScript: linuxWorkload() } : {}))
  const monitor = createLinuxWorkloadMonitor()
  const boot: PeerBoot = {
    bios: linux.opensbi,
    kernel: linux.kernel,
    initrd,
    append: 'console=ttyS0 quiet',
    ramBytes: 128 * 2 ** 20,
    harts,
    interrupts,
    disk: { path: createDisk(join(folder, `disk-${id}.img`), 4 * 2 ** 20), bus },
    timerNudge,
    userNet,
    postcopy,
    onOutput: (text) => monitor.push(text),
  }
  const bootOf = (kind: PeerKind): PeerBoot =>
    kind === '10.0' && cpu10 ? { ...boot, stockArgs: ['-cpu', cpu10] } : boot
  const { answerMs = 120_000, silentAfter = [] } = journey
  const guest = load ? loadedGuest(monitor, answerMs) : idleGuest(monitor, answerMs)
  const first = bootOf(machines[0]!)
  const stockArgs = [...(first.stockArgs ?? []), ...(deviceTree ? ['-dtb', deviceTree] : [])]
  let here: Peer = await createPeer(machines[0]!, 'source', { ...first, stockArgs }, folder)
  try {
    await here.start()
    await guest.booted(here)
    for (const kind of machines.slice(1)) {
      const hop = log.moved.length
      const name = `hop-${id}-${hop}`
      const fds =
        transport === 'fd'
          ? await createDescriptors(hop % 2 === 0 ? 'pipe' : 'sockets', folder, `${name}-pipe`)
          : undefined
      const there = await createPeer(kind, 'destination', { ...bootOf(kind), incomingFd: fds?.incoming }, folder)
      const from = here.kind
      try {
        await guest.leaves(here)
        const times = await movePeer(here, there, await passage(transport, here, there, folder, name, fds))
        log.moved.push({ from, to: kind, ...times })
      } catch (error) {
        await there[Symbol.asyncDispose]()
        throw new Error(`${from} to ${kind}: ${(error as Error).message}`, { cause: error })
      }
      here = there
      if (silentAfter.includes(log.answered)) await staysSilent(monitor, answerMs)
      else await guest.arrived(here)
      log.answered++
    }
    await guest.ends(here)
    return log.moved
  } catch (error) {
    sane(monitor) // a guest that fell silent may have said why
    throw error
  } finally {
    await here[Symbol.asyncDispose]()
  }
}

/** What a journey does with its guest on the way. */
interface Traveller {
  booted(at: Peer): Promise<void>
  leaves(from: Peer): Promise<void>
  arrived(at: Peer): Promise<void>
  ends(at: Peer): Promise<void>
}

function sane(monitor: LinuxWorkloadMonitor): void {
  if (monitor.problems.length > 0) throw new Error(`the guest says: ${monitor.problems.join(' | ')}`)
}

/** A guest that was to fall silent. */
class AwakeError extends Error {}

async function staysSilent(monitor: LinuxWorkloadMonitor, ms: number): Promise<void> {
  const { length } = monitor.text
  await delay(ms)
  if (monitor.text.length > length) throw new AwakeError(`the guest goes on: ${monitor.text.slice(length)}`)
}

/** Counts, and compares memory and disk with what they should be, all the time. */
function loadedGuest(monitor: LinuxWorkloadMonitor, answerMs: number): Traveller {
  return {
    booted: () => monitor.until((m) => m.rounds > 2, 180_000),
    leaves: async () => {},
    async arrived() {
      const { rounds } = monitor
      await monitor.until((m) => m.rounds > rounds + 1, answerMs)
      sane(monitor)
    },
    async ends(at) {
      at.type('q\n')
      await monitor.until((m) => m.verdict !== undefined, 120_000)
      sane(monitor)
    },
  }
}

/** What the shell says after a sleep: which sleep it was, and whether memory and disk are what they were at the start. */
const IDLE_SETUP = [
  'd=/dev/vda n=0',
  'head -c 1048576 /dev/urandom >/tmp/file; dd if=/tmp/file of=$d bs=64k oflag=direct 2>/dev/null',
  'sum() { sha256sum | cut -c1-16; }; memory=$(sum </tmp/file)',
  'disk() { dd if=$d bs=64k count=16 iflag=direct 2>/dev/null | sum; }',
  'whole() { [ "$(sum </tmp/file) $(disk)" = "$memory $memory" ] && echo whole || echo DAMAGED; }',
  'echo "setup $(whole)"',
]

/** Sleeps while it moves; then its timer has to wake it, and it answers to what is typed. */
function idleGuest(monitor: LinuxWorkloadMonitor, answerMs: number): Traveller {
  let sleeps = 0
  let asleep = false
  return {
    async booted(at) {
      await monitor.until((m) => m.text.includes('~ # '), 180_000)
      for (const line of IDLE_SETUP) {
        const { length } = monitor.text
        at.type(`${line}\n`)
        await monitor.until((m) => m.text.indexOf('~ # ', length) >= 0, 60_000)
      }
      if (!monitor.text.includes('setup whole\r')) throw new Error(`the guest says: ${monitor.text.slice(-300)}`)
    },
    async leaves(from) {
      // What it prints after its sleep nobody wakes it for: that takes its timer.
      if (asleep) return
      asleep = true
      sleeps++
      from.type(`sleep ${SLEEP_S}; n=$((n + 1)); echo "woke $n $(whole)"\n`)
      await delay(ASLEEP_MS)
    },
    async arrived(at) {
      const woke = new RegExp(`^woke ${sleeps} (whole|DAMAGED)\\r`, 'm')
      await monitor.until((m) => woke.test(m.text), answerMs)
      asleep = false
      if (woke.exec(monitor.text)![1] !== 'whole') throw new Error('the guest says: memory or disk is DAMAGED')
      at.type(`echo $((6 * 7)) hop$n\n`)
      await monitor.until((m) => m.text.includes(`42 hop${sleeps}\r`), answerMs)
      sane(monitor)
    },
    ends: async () => sane(monitor),
  }
}

/**
 * Stock 7.2 loses dirty pages now and then when it sends a busy guest, which the guest then rightly complains about: such a
 * journey is tried again, and counted. Never for machines that do not include it as a sender. Nor does every guest fall silent
 * that stock puts to sleep: on a busy host one may be awake at the wrong moment.
 */
export async function travelGuarded(
  journey: Journey,
  folder: string,
  attempts = 3,
): Promise<{ hops: readonly Hop[]; lostByStock: number }> {
  for (let lost = 0; ; lost++) {
    try {
      return { hops: await travel(journey, folder), lostByStock: lost }
    } catch (error) {
      const again = mayBeLostByStock(journey, error as Error) || error instanceof AwakeError
      if (!again || lost + 1 >= attempts) throw error
    }
  }
}

/** Damage that the guest found, where 7.2 sent it while it was busy. */
export function mayBeLostByStock({ guest, machines }: Journey, error: Error): boolean {
  return guest === 'load' && machines.slice(0, -1).includes('7.2') && error.message.startsWith('the guest says')
}
