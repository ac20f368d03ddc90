/** Linux with a virtio console, a virtio serial port and two network cards moves between `emu` and stock QEMU, both ways. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { zstdDecompressSync } from 'node:zlib'
import {
  memoryBlock,
  virtconsole,
  virtioBlk,
  virtioIommu,
  virtioNet,
  virtioRng,
  virtioSerial,
  virtserialport,
} from '@ferryvm/devices-virtio'
import { slirp, UserNet } from '@ferryvm/netdev'
import { StreamNet } from '@ferryvm/netdev/node'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  buildLinuxInitramfs,
  diskModules,
  findLinuxGuest,
  linuxGuestMissing,
  readModules,
} from '../tooling/guest/linux-guest.ts'
import { Lan } from './harness/lan.ts'
import { createPeer, movePeer, type Peer, type PeerBoot, type PeerKind, type PeerRole } from './harness/peers.ts'
import { Wire } from './harness/wire.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const required = Boolean(process.env.CI || process.env.FERRY_REQUIRE_QEMU)
const missing = stockQemuMissing() ?? linuxGuestMissing()
const no10 = stockQemu10Missing()
for (const reason of [missing, no10]) if (reason) console.warn(`skipped: ${reason}`)
/** Debian has it in a package of its own (ipxe-qemu). */
const stockHasRom = existsSync('/usr/lib/ipxe/qemu/efi-virtio.rom')

type Bus = 'pcie.0' | 'virtio-mmio'
interface Here {
  readonly peer: Peer
  readonly console: Wire
  readonly port: Wire
}
const MACS = ['52:54:00:12:34:56', '52:54:00:12:34:57'] as const
const NEIGHBOUR = '10.1.0.2'
const PORT_NAME = 'org.ferryvm.test'

/** eth0 is in the user network, eth1 in a network with another guest. */
const GUEST = [
  'until p=$(ls /dev/vport*p1) && [ -c /dev/hvc0 ] && [ -e /sys/class/net/eth1 ]; do sleep 1; done',
  '(while read l; do echo "console $l."; done) </dev/hvc0 >/dev/hvc0 &',
  '(while read l <&3; do echo "port $l." >&3; done) 3<>$p &',
  'ip link set eth0 up; ip link set eth1 up; udhcpc -i eth0 -n -q -s /bin/true 2>&1 | grep lease',
  'ip addr add 10.0.2.15/24 dev eth0; ip addr add 10.1.0.1/24 dev eth1',
  'cat /sys/class/virtio-ports/*p1/name; echo ready$((6 * 7))',
]
const BOOTED = [PORT_NAME, 'lease of 10.0.2.15 obtained', 'ready42']

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

let machines = 0
async function create(kind: PeerKind, role: PeerRole, bus: Bus, boot: PeerBoot, lan: Lan): Promise<Here> {
  const id = ++machines
  const lanPort = await lan.plug()
  if (kind.startsWith('emu')) {
    const [console, port] = [new Wire(), new Wire()]
    const network = new UserNet()
    const cable = await StreamNet.open({ address: { host: '127.0.0.1', port: lanPort } })
    const devices = [
      slirp({ network }),
      virtioSerial({}, { bus }),
      virtconsole({ chardev: console }),
      virtserialport({ chardev: port, name: PORT_NAME }),
      // Of two slots of virtio-mmio, Linux numbers the one with the lower address first: there the last device.
      ...inOrder(bus, [
        virtioNet({ netdev: network, mac: MACS[0], romfile: '' }, { bus }),
        virtioNet({ netdev: cable, mac: MACS[1], ...(!stockHasRom && { romfile: '' }) }, { bus }),
      ]),
    ]
    const peer = await createPeer(kind, role, { ...boot, devices }, folder.path)
    return { peer, console, port }
  }
  const paths = ['console', 'port'].map((name) => join(folder.path, `${name}-${id}`))
  const suffix = bus === 'pcie.0' ? 'pci' : 'device'
  const rom = (has: boolean) => (bus === 'pcie.0' && !has ? ',romfile=' : '')
  const stockArgs = [
    ...paths.flatMap((path, i) => ['-chardev', `socket,id=c${i},path=${path},server=on,wait=off`]),
    ...['-netdev', 'user,id=n0', '-netdev', `socket,id=n1,connect=127.0.0.1:${lanPort}`],
    ...['-device', `virtio-serial-${suffix}`],
    ...['-device', 'virtconsole,chardev=c0', '-device', `virtserialport,chardev=c1,name=${PORT_NAME}`],
    ...inOrder(bus, [
      ['-device', `virtio-net-${suffix},netdev=n0,mac=${MACS[0]}${rom(false)}`],
      ['-device', `virtio-net-${suffix},netdev=n1,mac=${MACS[1]}${rom(stockHasRom)}`],
    ]).flat(),
  ]
  const peer = await createPeer(kind, role, { ...boot, stockArgs }, folder.path)
  const [console, port] = await Promise.all(paths.map((path) => Wire.connect(path)))
  return { peer, console: console!, port: port! }
}
const inOrder = <T>(bus: Bus, devices: readonly T[]): readonly T[] =>
  bus === 'pcie.0' ? devices : devices.toReversed()

/** Waits for what a guest prints. */
class Screen {
  text = ''
  readonly push = (text: string) => void (this.text += text)

  async until(what: string, holds: () => boolean, seconds = 60): Promise<void> {
    const end = performance.now() + 1000 * seconds
    while (!holds()) {
      if (performance.now() > end) throw new Error(`no ${what}: ${this.text.slice(-800)}`)
      await delay(20)
    }
  }
  async booted(): Promise<void> {
    await this.until('shell', () => this.text.includes('~ # '), 180)
  }
  /** Types a line and waits for the next prompt. */
  async run(peer: Peer, line: string): Promise<void> {
    const { length } = this.text
    peer.type(`${line}\n`)
    await this.until(line, () => this.text.indexOf('~ # ', length) >= 0)
  }
}

const journeys: readonly { machines: PeerKind[]; bus: Bus }[] = [
  { machines: ['7.2', 'emu-7.2', '7.2'], bus: 'pcie.0' },
  { machines: ['emu-10.0', '10.0', 'emu-10.0'], bus: 'virtio-mmio' },
]

describe.skipIf(missing && !required)('Linux', { timeout: 300_000 }, () => {
  for (const { machines, bus } of journeys) {
    const needs10 = machines.includes('10.0') && no10 !== undefined
    it.skipIf(needs10)(`${machines.join(' to ')}, its console, port and network cards on ${bus}`, async () => {
      const linux = findLinuxGuest()!
      const initrd = join(folder.path, 'initrd.gz')
      const modules = readModules(linux, [...diskModules, 'failover', 'net_failover', 'virtio_net'])
      writeFileSync(initrd, buildLinuxInitramfs(linux, { modules }))
      const screen = new Screen()
      const neighbourScreen = new Screen()
      const boot: PeerBoot = {
        bios: linux.opensbi,
        kernel: linux.kernel,
        initrd,
        append: 'console=ttyS0 quiet',
        ramBytes: 128 * 2 ** 20,
        onOutput: screen.push,
      }
      await using lan = new Lan()
      const cable = ['-netdev', `socket,id=n,connect=127.0.0.1:${await lan.plug()}`]
      const card = ['-device', 'virtio-net-device,netdev=n,mac=52:54:00:00:00:02']
      const neighbourBoot = { ...boot, onOutput: neighbourScreen.push, stockArgs: [...cable, ...card] }
      await using neighbour = await createPeer('7.2', 'source', neighbourBoot, folder.path)
      await neighbour.start()
      let here = await create(machines[0]!, 'source', bus, boot, lan)
      try {
        await here.peer.start()
        await screen.booted()
        for (const line of GUEST) await screen.run(here.peer, line)
        for (const text of BOOTED) expect(screen.text).toContain(text)
        await neighbourScreen.booted()
        await neighbourScreen.run(neighbour, `ip addr add ${NEIGHBOUR}/24 dev eth0; ip link set eth0 up`)

        let hop = 0
        const answers = async () => {
          here.console.type(`a${hop}\n`)
          await screen.until(`console a${hop}`, () => here.console.text.includes(`console a${hop}.`))
          here.port.type(`b${hop}\n`)
          await screen.until(`port b${hop}`, () => here.port.text.includes(`port b${hop}.`))
          for (const address of ['10.0.2.2', NEIGHBOUR]) {
            await screen.run(here.peer, `ping -c 2 -W 20 ${address} >/dev/null && echo "${hop} reached" ${address}`)
            await screen.until(`answer of ${address}`, () => screen.text.includes(`${hop} reached ${address}`), 5)
          }
          hop++
        }
        await answers()
        for (const kind of machines.slice(1)) {
          const there = await create(kind, 'destination', bus, boot, lan)
          try {
            await movePeer(here.peer, there.peer)
          } catch (error) {
            await there.peer[Symbol.asyncDispose]()
            throw error
          }
          here = there
          await answers()
        }
        expect(hop).toBe(machines.length)
      } finally {
        await here.peer[Symbol.asyncDispose]()
      }
    })
  }
})

/** Neither of our Linux kernels has a driver for it, so it is a guest that stock QEMU 10.0 recorded: two domains, a disk and entropy in them. */
const recorded = resolve(import.meta.dirname, '../../shared/streams/rv100-bm-viommu-smp2.mig.zst')
const noRecording = existsSync(recorded) ? no10 : 'recorded streams, ../shared/streams is not here'
if (noRecording) console.warn(`skipped: ${noRecording}`)

describe.skipIf(noRecording)('a guest with a virtio IOMMU', { timeout: 180_000 }, () => {
  it('goes on here, on stock QEMU 10.0, and here again', async () => {
    const screen = new Screen()
    const kernel = join(folder.path, 'unused.bin')
    const disk = join(folder.path, 'disk.img')
    writeFileSync(kernel, new Uint8Array(4096))
    writeFileSync(disk, new Uint8Array(2 ** 20))
    const boot = { kernel, ramBytes: 16 * 2 ** 20, harts: 2, onOutput: screen.push }
    const ours = (): PeerBoot => ({
      ...boot,
      devices: [
        virtioIommu({}, { bus: 'pcie.0' }),
        virtioBlk(
          { drive: memoryBlock(new Uint8Array(2 ** 20)) },
          { bus: 'pcie.0', options: { 'disable-legacy': 'on', iommu_platform: 'on' } },
        ),
        virtioRng({}, { bus: 'pcie.0' }),
      ],
    })
    const drive = `file=${disk},if=none,id=d,format=raw,file.locking=off`
    const stockArgs = [
      ...['-drive', drive, '-device', 'virtio-iommu-pci'],
      ...['-device', 'virtio-blk-pci,drive=d,disable-legacy=on,iommu_platform=on', '-device', 'virtio-rng-pci'],
    ]
    /** What the guest prints on each tick, with a number that grows. */
    const ticks = () => [...screen.text.matchAll(/^T ([0-9a-f]{6}) M .* F /gm)].map(([, n]) => Number.parseInt(n!, 16))
    const goesOn = async (where: string) => {
      const before = ticks().length
      await screen.until(`ticks ${where}`, () => ticks().length > before + 2)
    }

    let here = await createPeer('emu-10.0', 'destination', ours(), folder.path)
    try {
      const address = await here.listen('tcp:127.0.0.1:0')
      const stream = zstdDecompressSync(readFileSync(recorded))
      connect(Number(address.split(':').at(-1)), '127.0.0.1').end(stream)
      await here.arrived()
      await goesOn('here')
      for (const kind of ['10.0', 'emu-10.0'] as const) {
        const there = await createPeer(
          kind,
          'destination',
          kind === '10.0' ? { ...boot, stockArgs } : ours(),
          folder.path,
        )
        try {
          await movePeer(here, there)
        } catch (error) {
          await there[Symbol.asyncDispose]()
          throw error
        }
        here = there
        await goesOn(`on ${kind}`)
      }
      const all = ticks()
      expect(all.every((n, i) => i === 0 || n > all[i - 1]!)).toBe(true)
    } finally {
      await here[Symbol.asyncDispose]()
    }
  })
})
