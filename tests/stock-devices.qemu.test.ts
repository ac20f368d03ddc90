/** Linux with a virtio console, a virtio serial port, moves between `emu` and stock QEMU, both ways. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { virtconsole, virtioSerial, virtserialport } from '@ferryvm/devices-virtio'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { buildLinuxInitramfs, findLinuxGuest, linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { createPeer, movePeer, type Peer, type PeerBoot, type PeerKind, type PeerRole } from './harness/peers.ts'
import { Wire } from './harness/wire.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const required = Boolean(process.env.CI || process.env.FERRY_REQUIRE_QEMU)
const missing = stockQemuMissing() ?? linuxGuestMissing()
const no10 = stockQemu10Missing()
for (const reason of [missing, no10]) if (reason) console.warn(`skipped: ${reason}`)

type Bus = 'pcie.0' | 'virtio-mmio'
interface Here {
  readonly peer: Peer
  readonly console: Wire
  readonly port: Wire
}

const GUEST = [
  '(while read l; do echo "console $l."; done) </dev/hvc0 >/dev/hvc0 &',
  '(while read l <&3; do echo "port $l." >&3; done) 3<>/dev/vport0p1 &',
  'cat /sys/class/virtio-ports/vport0p1/name; echo ready$((6 * 7))',
]

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

let machines = 0
async function create(kind: PeerKind, role: PeerRole, bus: Bus, boot: PeerBoot): Promise<Here> {
  const id = ++machines
  if (kind.startsWith('emu')) {
    const [console, port] = [new Wire(), new Wire()]
    const devices = [
      virtioSerial({}, { bus }),
      virtconsole({ chardev: console }),
      virtserialport({ chardev: port, name: 'org.ferryvm.test' }),
    ]
    return { peer: await createPeer(kind, role, { ...boot, devices }, folder.path), console, port }
  }
  const paths = ['console', 'port'].map((name) => join(folder.path, `${name}-${id}`))
  const chardevs = paths.flatMap((path, i) => ['-chardev', `socket,id=c${i},path=${path},server=on,wait=off`])
  const stockArgs = [
    ...chardevs,
    ...['-device', bus === 'pcie.0' ? 'virtio-serial-pci' : 'virtio-serial-device'],
    ...['-device', 'virtconsole,chardev=c0', '-device', 'virtserialport,chardev=c1,name=org.ferryvm.test'],
  ]
  const peer = await createPeer(kind, role, { ...boot, stockArgs }, folder.path)
  const [console, port] = await Promise.all(paths.map((path) => Wire.connect(path)))
  return { peer, console: console!, port: port! }
}

const journeys: readonly { machines: PeerKind[]; bus: Bus }[] = [
  { machines: ['7.2', 'emu-7.2', '7.2'], bus: 'pcie.0' },
  { machines: ['emu-10.0', '10.0', 'emu-10.0'], bus: 'virtio-mmio' },
]

describe.skipIf(missing && !required)('Linux', { timeout: 240_000 }, () => {
  for (const { machines, bus } of journeys) {
    const needs10 = machines.includes('10.0') && no10 !== undefined
    it.skipIf(needs10)(`${machines.join(' to ')}, its console and port on ${bus}`, async () => {
      const linux = findLinuxGuest()!
      const initrd = join(folder.path, 'initrd.gz')
      writeFileSync(initrd, buildLinuxInitramfs(linux))
      let said = ''
      const until = async (what: string, holds: () => boolean, seconds = 60) => {
        const end = performance.now() + 1000 * seconds
        while (!holds()) {
          if (performance.now() > end) throw new Error(`no ${what}: ${said.slice(-600)}`)
          await delay(20)
        }
      }
      const boot: PeerBoot = {
        bios: linux.opensbi,
        kernel: linux.kernel,
        initrd,
        append: 'console=ttyS0 quiet',
        ramBytes: 128 * 2 ** 20,
        onOutput: (text) => void (said += text),
      }
      let here = await create(machines[0]!, 'source', bus, boot)
      try {
        await here.peer.start()
        await until('shell', () => said.includes('~ # '), 180)
        for (const line of GUEST) {
          const { length } = said
          here.peer.type(`${line}\n`)
          await until(line, () => said.indexOf('~ # ', length) >= 0)
        }
        await until('port name', () => said.includes('org.ferryvm.test') && said.includes('ready42'))
        let hop = 0
        const answers = async () => {
          here.console.type(`a${hop}\n`)
          await until(`console a${hop}`, () => here.console.text.includes(`console a${hop}.`))
          here.port.type(`b${hop}\n`)
          await until(`port b${hop}`, () => here.port.text.includes(`port b${hop}.`))
          hop++
        }
        await answers()
        for (const kind of machines.slice(1)) {
          const there = await create(kind, 'destination', bus, boot)
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
