/**
 * A guest that writes and checks memory all the time is saved while it goes on, and loaded somewhere else: the one that goes on
 * and the saved one both say at their end whether a byte was lost.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createPeer, type Peer, type PeerKind } from './harness/peers.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 2 ** 20
const no72 = stockQemuMissing()
const no10 = stockQemu10Missing()
for (const reason of [no72, no10]) if (reason) console.warn(`skipped: ${reason}`)

interface Snapshot {
  readonly from: PeerKind
  readonly to: readonly PeerKind[]
  readonly over: 'exec' | 'file' | 'tcp'
  readonly mapped?: true
  readonly harts?: number
}
const snapshots: readonly Snapshot[] = [
  { from: 'emu-7.2', over: 'exec', to: ['7.2', 'emu-7.2'], harts: 2 },
  { from: 'emu-10.0', over: 'file', to: ['10.0'] },
  { from: 'emu-10.0', over: 'file', to: ['10.0', 'emu-10.0'], mapped: true },
  { from: 'emu-7.2', over: 'tcp', to: ['emu-7.2'] },
  { from: '7.2', over: 'exec', to: ['emu-7.2'] },
  { from: '10.0', over: 'file', to: ['emu-10.0'] },
]

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

function addresses({ over }: Snapshot): { out: string; in: string } {
  const path = join(folder.path, 'saved')
  if (over === 'exec') return { out: `exec:cat >${path}`, in: `exec:cat ${path}` }
  return over === 'file' ? { out: `file:${path}`, in: `file:${path}` } : { out: '', in: 'tcp:127.0.0.1:0' }
}

/** The guest goes on where it is, and is content at its end. */
async function goesOn(peer: Peer, guest: ReturnType<typeof createGuestMonitor>): Promise<void> {
  const { lines } = guest
  await guest.until((g) => g.lines > lines + 3, 60_000)
  peer.type('q')
  await guest.until((g) => g.verdicts.length > 0, 60_000)
  expect([guest.problems, guest.verdicts[0]!.ok]).toEqual([[], true])
}

async function saveAndLoad(snapshot: Snapshot): Promise<void> {
  const { from, to, harts = 1, mapped } = snapshot
  const kernel = join(folder.path, 'guest.bin')
  const image = { dirtyBytes: 12 * MiB, dirtyBytesPerSecond: 48 * MiB, lcgStepsPerSecond: 200_000, linesPerSecond: 20 }
  writeFileSync(kernel, embeddedGuestImage({ ...image, earlyTimer: true }))
  const boot = (guest: ReturnType<typeof createGuestMonitor>) => ({
    kernel,
    harts,
    ramBytes: 32 * MiB,
    onOutput: (text: string) => guest.push(text),
  })
  const guest = createGuestMonitor()
  await using source = await createPeer(from, 'source', boot(guest), folder.path)
  await source.start()
  await guest.until((g) => (g.last?.passes ?? 0) > 0, 60_000)
  const capabilities = ['background-snapshot', ...(mapped ? ['mapped-ram'] : [])]
  await source.configure({ capabilities, parameters: { 'max-bandwidth': 16 * MiB } })

  const { out, in: where } = addresses(snapshot)
  const load = async (kind: PeerKind, arrives: (peer: Peer) => Promise<void>) => {
    const saved = createGuestMonitor()
    await using peer = await createPeer(kind, 'destination', boot(saved), folder.path)
    if (mapped) await peer.configure({ capabilities: ['mapped-ram'] })
    await arrives(peer)
    await peer.arrived()
    await goesOn(peer, saved)
  }
  if (snapshot.over === 'tcp') await load(to[0]!, async (peer) => void (await source.send(await peer.listen(where))))
  else await source.send(out)
  const info = await source.info()
  expect(info).toMatchObject({ status: 'completed', ram: { remaining: 0, 'dirty-sync-count': 0 } })
  expect(info.ram.normal + info.ram.duplicate).toBe(info.ram.total / 4096)
  await goesOn(source, guest)
  if (snapshot.over !== 'tcp') for (const kind of to) await load(kind, async (peer) => void (await peer.listen(where)))
}

describe.skipIf(no72)('a snapshot of a running guest', { timeout: 180_000 }, () => {
  for (const snapshot of snapshots) {
    const { from, over, to, mapped } = snapshot
    const needs10 = [from, ...to].includes('10.0')
    const name = `of ${from} over ${over}:${mapped ? ', mapped,' : ''} is loaded by ${to.join(' and ')}`
    it.skipIf(no10 !== undefined && needs10)(name, () => saveAndLoad(snapshot))
  }
})
