/** A Linux guest's way over several machines: what tests and the full matrix have in common. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { buildLinuxInitramfs, findLinuxGuest } from '../../tooling/guest/linux-guest.ts'
import { createLinuxWorkloadMonitor, linuxWorkload } from '../../tooling/guest/linux-workload.ts'
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
  readonly transport?: 'tcp' | 'unix'
  /** `-cpu` of stock 10.0 machines: without extensions that 7.2 lacks, a guest that booted there can go to 7.2. */
  readonly cpu10?: string
  /** False: ours sends timers as they are. */
  readonly timerNudge?: boolean
  readonly postcopy?: PostcopyOptions
  /** Stock machines have a user network back-end. */
  readonly userNet?: boolean
}

export interface Hop extends MoveTimes {
  readonly from: PeerKind
  readonly to: PeerKind
}

/** Long enough for a guest that was going to sleep to be asleep. */
const ASLEEP_MS = 1200
const SLEEP_S = 3
const ANSWER_MS = 20_000
let journeys = 0

/**
 * Boots Linux on the first machine and moves it from each to the next; after every arrival the guest must show that it goes
 * on. Ends with the guest's own verdict.
 * @throws what the guest found, or that it fell silent, or why a machine refused it
 */
export async function travel(journey: Journey, folder: string): Promise<readonly Hop[]> {
  const { machines, guest, bus, harts, transport = 'tcp', cpu10, timerNudge, userNet, postcopy } = journey
  const linux = findLinuxGuest()!
  const id = ++journeys
  const initrd = join(folder, `initrd-${id}.gz`)
  writeFileSync(initrd, buildLinuxInitramfs(linux, guest === 'load' ? { initScript: linuxWorkload() } : {}))
  const monitor = createLinuxWorkloadMonitor()
  const boot: PeerBoot = {
    bios: linux.opensbi,
    kernel: linux.kernel,
    initrd,
    append: 'console=ttyS0 quiet',
    ramBytes: 128 * 2 ** 20,
    harts,
    disk: { path: createDisk(join(folder, `disk-${id}.img`), 4 * 2 ** 20), bus },
    timerNudge,
    userNet,
    postcopy,
    onOutput: (text) => monitor.push(text),
  }
  const bootOf = (kind: PeerKind): PeerBoot =>
    kind === '10.0' && cpu10 ? { ...boot, stockArgs: ['-cpu', cpu10] } : boot
  const sane = () => {
    if (monitor.problems.length > 0) throw new Error(`the guest says: ${monitor.problems.join(' | ')}`)
  }

  const hops: Hop[] = []
  let here: Peer = await createPeer(machines[0]!, 'source', bootOf(machines[0]!), folder)
  try {
    await here.start()
    await monitor.until((m) => (guest === 'load' ? m.rounds > 2 : m.text.includes('~ # ')), 180_000)
    for (const kind of machines.slice(1)) {
      const n = hops.length + 1
      if (guest === 'idle') {
        // What it prints at the end nobody wakes it for: that takes its timer.
        here.type(`sleep ${SLEEP_S}; echo woke$((${n} + 0))\n`)
        await delay(ASLEEP_MS)
      }
      const there = await createPeer(kind, 'destination', bootOf(kind), folder)
      const from = here.kind
      try {
        const uri = transport === 'tcp' ? 'tcp:127.0.0.1:0' : `unix:${join(folder, `m-${id}-${hops.length}.sock`)}`
        const times = await movePeer(here, there, uri)
        hops.push({ from, to: kind, ...times })
        here = there
      } catch (error) {
        await there[Symbol.asyncDispose]()
        throw new Error(`${from} to ${kind}: ${(error as Error).message}`, { cause: error })
      }
      if (guest === 'load') {
        const { rounds } = monitor
        await monitor.until((m) => m.rounds > rounds + 1, ANSWER_MS)
        sane()
      } else {
        await monitor.until((m) => m.text.includes(`woke${n}\r`), ANSWER_MS)
        here.type(`echo $((6 * 7)) hop${n}\n`)
        await monitor.until((m) => m.text.includes(`42 hop${n}\r`), ANSWER_MS)
      }
    }
    if (guest === 'load') {
      here.type('q\n')
      await monitor.until((m) => m.verdict !== undefined, 120_000)
      sane()
    }
    return hops
  } catch (error) {
    sane() // a guest that fell silent may have said why
    throw error
  } finally {
    await here[Symbol.asyncDispose]()
  }
}

/**
 * Stock 7.2 loses dirty pages now and then when it sends a busy guest, which the guest then rightly complains about: such a
 * journey is tried again, and counted. Never for machines that do not include it as a sender.
 */
export async function travelGuarded(
  journey: Journey,
  folder: string,
  attempts = 3,
): Promise<{ hops: readonly Hop[]; lostByStock: number }> {
  const suspect = journey.guest === 'load' && journey.machines.slice(0, -1).includes('7.2')
  for (let lost = 0; ; lost++) {
    try {
      return { hops: await travel(journey, folder), lostByStock: lost }
    } catch (error) {
      const found = (error as Error).message.startsWith('the guest says')
      if (!suspect || !found || lost + 1 >= attempts) throw error
    }
  }
}
