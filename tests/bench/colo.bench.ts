import { type CheckpointFacts, createColo } from '@ferryvm/colo'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { createVm } from '../harness/vm.ts'

const MiB = 2 ** 20
/** Changed per interval, as far as the guest gets to it. */
const CHANGED_BYTES = 32 * MiB
const CHECKPOINTS = 40

/**
 * How long the guest stands still per checkpoint, and what is left of its speed, both machines in this process: 256 MiB of
 * RAM, 32 MiB of it changed per interval.
 */
export default async function bench(report: (line: string) => void): Promise<void> {
  for (const delayMs of [25, 100, 600]) {
    const { facts, alone, paired } = await measure(delayMs)
    const paused = facts.map((f) => f.pausedMs).sort((a, b) => a - b)
    const at = (share: number) => paused[Math.min(paused.length - 1, Math.floor(paused.length * share))]!.toFixed(1)
    const mean = facts.reduce((sum, f) => sum + f.bytes, 0) / facts.length / MiB
    report(
      `COLO every ${delayMs} ms: stands still ${at(0.5)} ms (p50), ${at(0.99)} ms (p99) for ${mean.toFixed(1)} MiB; ` +
        `speed of the guest ${(paired / alone).toFixed(2)} of what it is alone`,
    )
  }
}

async function measure(delayMs: number) {
  const guest = createGuestMonitor()
  const kernel = embeddedGuestImage({
    dirtyBytes: CHANGED_BYTES,
    dirtyBytesPerSecond: Math.min(2 ** 31 - 1, Math.round((CHANGED_BYTES * 1000) / delayMs)),
    lcgStepsPerSecond: 200_000,
  })
  const facts: CheckpointFacts[] = []
  const side = () => {
    const colo = createColo({ onCheckpoint: (f) => void facts.push(f) })
    return createVm({
      kernel,
      ramBytes: 256 * MiB,
      onOutput: (text) => guest.push(text),
      migrationOptions: { colo },
    })
  }
  await using here = await side()
  await using there = await side()
  for (const { migration } of [here, there]) {
    migration.setCapabilities([{ capability: 'x-colo', state: true }])
    migration.setParameters({ 'x-checkpoint-delay': delayMs, 'max-bandwidth': 2 ** 40 })
  }
  here.machine.start()
  await guest.until((g) => g.lines > 5, 60_000)
  const rate = async (until: () => boolean) => {
    const [began, from] = [performance.now(), here.machine.cpu.instructionsRetired]
    while (!until()) await new Promise((resolve) => setTimeout(resolve, 20))
    return Number(here.machine.cpu.instructionsRetired - from) / (performance.now() - began)
  }
  const end = performance.now() + 3000
  const alone = await rate(() => performance.now() > end)
  const incoming = await there.migration.incoming('tcp:127.0.0.1:0')
  incoming.done.catch(() => {})
  here.migration.start(incoming.uri)
  await rate(() => facts.length >= 5) // the first ones compile what saves and loads
  const before = facts.length
  const paired = await rate(() => facts.length >= before + CHECKPOINTS)
  return { facts: facts.slice(before), alone, paired }
}
