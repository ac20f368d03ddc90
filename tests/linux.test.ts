import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { rawFile } from '@ferryvm/block/node'
import { virtioBlk } from '@ferryvm/devices-virtio'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildLinuxInitramfs, findLinuxGuest, linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { createLinuxWorkloadMonitor, linuxWorkload } from '../tooling/guest/linux-workload.ts'
import { createDisk, createVm, move, type TestVm } from './harness/vm.ts'

const guest = findLinuxGuest()
const missing = linuxGuestMissing() ?? (guest?.opensbi ? undefined : 'no OpenSBI firmware (package opensbi)')
if (missing) console.warn(`skipped: ${missing}`)
const required = Boolean(process.env.FERRY_REQUIRE_QEMU)
const ROUNDS = Number(process.env.FERRY_LINUX_MIGRATIONS ?? 50)
const MiB = 2 ** 20

describe.skipIf(missing && !required)('Linux', () => {
  let folder: string
  beforeAll(() => {
    if (missing) throw new Error(`FERRY_REQUIRE_QEMU asks for Linux, and there is ${missing}`)
    folder = mkdtempSync(join(tmpdir(), 'ferryvm-linux-'))
  })
  afterAll(() => folder && rmSync(folder, { recursive: true }))

  /** Debian's kernel under stock OpenSBI, with a disk on each kind of virtio bus. */
  async function boot(options: {
    initScript?: string
    disk?: string
    bus?: string
    onOutput(text: string): void
  }): Promise<TestVm> {
    const disk = options.disk && virtioBlk({ drive: await rawFile(options.disk) }, { bus: options.bus ?? 'pcie.0' })
    return createVm({
      bios: readFileSync(guest!.opensbi!),
      kernel: readFileSync(guest!.kernel),
      initrd: buildLinuxInitramfs(guest!, { initScript: options.initScript }),
      append: 'console=ttyS0 quiet',
      ramBytes: 128 * MiB,
      devices: disk ? [disk] : [],
      onOutput: options.onOutput,
    })
  }

  it('boots to a shell that one can type into', { timeout: 180_000 }, async () => {
    let console_ = ''
    await using vm = await boot({ onOutput: (text) => void (console_ += text) })
    const until = async (text: string | RegExp) => {
      for (let i = 0; !(typeof text === 'string' ? console_.includes(text) : text.test(console_)); i++) {
        if (i > 3000) throw new Error(`no ${text}:\n${console_.slice(-1500)}`)
        await delay(50)
      }
    }
    vm.machine.start()
    await until('~ # ')
    vm.type('echo $((6 * 7)) $(uname -m)\n')
    await until('42 riscv64')
    vm.type('poweroff -f\n')
    await new Promise<void>((done) => vm.machine.on('shutdown', () => done()))
  })

  it.each(['pcie.0', 'virtio-mmio'])(
    `moves ${ROUNDS} times under load with its disk on %s, and checks itself after each`,
    { timeout: 900_000 },
    async (bus) => {
      const disk = createDisk(join(folder, `${bus}.img`), 4 * MiB)
      const workload = createLinuxWorkloadMonitor()
      const options = { initScript: linuxWorkload(), disk, bus, onOutput: (text: string) => workload.push(text) }
      let here = await boot(options)
      try {
        here.machine.start()
        await workload.until((w) => w.rounds > 2, 180_000)
        for (let n = 0; n < ROUNDS; n++) {
          const there = await boot(options)
          await delay(Math.random() * 500)
          await move(here, there)
          await here[Symbol.asyncDispose]()
          here = there
          const { rounds } = workload
          await workload.until((w) => w.rounds > rounds + 1, 60_000)
          expect(workload.problems, `after migration ${n + 1}`).toEqual([])
        }
        here.type('q\n')
        await workload.until((w) => w.verdict !== undefined, 120_000)
        expect(workload.verdict).toMatchObject({ ok: true })
        expect(workload.problems).toEqual([])
      } finally {
        await here[Symbol.asyncDispose]()
      }
    },
  )
})
