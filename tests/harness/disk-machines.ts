/** Machines as processes, ours and stock QEMU's, with the embedded guest on a disk image, steered over QMP. */
import { join } from 'node:path'
import { QmpClient } from '../../apps/emu/src/qmp-client.ts'
import { createGuestMonitor, type GuestMonitor } from '../../packages/embedded-guest/src/index.ts'
import { stockQemu10 } from '../stock-qemu/stock-10.ts'
import { startStockQemu } from '../stock-qemu/stock-qemu.ts'
import { emu } from './emu.ts'

/** Which program runs the machine; `emu-10.0`: with that profile. */
export type DiskMachineKind = 'emu-7.2' | 'emu-10.0' | '7.2' | '10.0'

export interface DiskMachine extends AsyncDisposable {
  readonly guest: GuestMonitor
  readonly qmp: QmpClient
  /** For another client. */
  readonly qmpPath: string
  /** What the program said on stderr. */
  readonly stderr: string
  /** The guest looks at everything and says what it found. @throws Error it is not content */
  verify(): Promise<void>
  kill(): Promise<void>
  /** In order: everything is written. */
  quit(): Promise<void>
}

/** @param kernel image of the embedded guest; `more`: -loadvm, -incoming, further disks */
export async function startDiskMachine(
  kind: DiskMachineKind,
  { folder, kernel, disk, more = [] }: { folder: string; kernel: string; disk: string; more?: readonly string[] },
): Promise<DiskMachine> {
  const guest = createGuestMonitor()
  const args = [
    ...['-m', '32M', '-bios', 'none', '-kernel', kernel],
    ...['-drive', `file=${disk},format=qcow2,if=none,id=hd0,node-name=n0`],
    ...['-device', 'virtio-blk-pci,drive=hd0,disable-legacy=on'],
    ...more,
  ]
  const machine = kind.startsWith('emu')
    ? await ours(kind, folder, args, guest)
    : await stock(kind, folder, args, guest)
  return {
    ...machine,
    guest,
    get stderr() {
      return machine.stderr()
    },
    async verify() {
      const before = guest.verdicts.length
      // After loadvm the first answer may stand behind half a line of what was going on, and is not seen as one.
      for (let attempt = 1; guest.verdicts.length === before; attempt++) {
        machine.type('v')
        const patience = attempt < ATTEMPTS ? 10_000 : 60_000
        await guest
          .until((g) => g.verdicts.length > before, patience)
          .catch((error) => {
            if (attempt === ATTEMPTS) throw error
          })
      }
      const verdict = guest.verdicts.at(-1)!
      // Stock QEMU arms no timer when it loads: our nudge wakes the guest once, a moment early.
      const nudged = !kind.startsWith('emu') && verdict.why.startsWith('timer-early') && verdict.errors === 1
      if (!verdict.ok && !nudged) throw new Error(`the guest found: ${verdict.text}\n${guest.text.slice(-2000)}`)
    },
    async quit() {
      await machine.qmp.execute('quit').catch(() => {})
      await machine.ended
    },
    async [Symbol.asyncDispose]() {
      machine.qmp.close()
      await machine.kill()
    },
  }
}

let started = 0
const ATTEMPTS = 4

async function ours(kind: DiskMachineKind, folder: string, args: string[], guest: GuestMonitor) {
  const path = join(folder, `emu-${++started}.sock`)
  const profile = kind === 'emu-10.0' ? 'qemu-10.0' : 'qemu-7.2'
  const own = ['run', '-M', `virt,profile=${profile}`, '-serial', 'stdio', '-qmp', `unix:${path},server=on`]
  const child = emu([...own, ...args])
  child.child.stdout!.on('data', (text: string) => guest.push(text))
  const ended = child.exited.then(({ code }) => {
    throw new Error(`emu ended with ${code}: ${child.out.stderr}`)
  })
  ended.catch(() => {})
  const qmp = await Promise.race([QmpClient.connect(path, 60_000), ended])
  return {
    qmp,
    qmpPath: path,
    type: child.type,
    stderr: () => child.out.stderr,
    ended: child.exited,
    async kill() {
      child.child.kill('SIGKILL')
      await child.exited
    },
  }
}

async function stock(kind: DiskMachineKind, folder: string, args: string[], guest: GuestMonitor) {
  const binary = kind === '10.0' ? stockQemu10() : undefined
  const qemu = await startStockQemu(folder, ['-M', 'virt', ...args], (chunk) => guest.push(chunk), binary)
  const qmp = await QmpClient.connect(qemu.qmpPath)
  return {
    qmp,
    qmpPath: qemu.qmpPath,
    type: qemu.type,
    stderr: () => qemu.stderr,
    ended: qemu.exited,
    kill: () => qemu.kill(),
  }
}
