/** Compiled code whose page a device overwrites: a disk read lands in the middle of a hot loop. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { virtBoard } from '@ferryvm/board-virt'
import { type Machine, silentLogger } from '@ferryvm/core'
import { ACCELERATORS, rv64 } from '@ferryvm/cpu-riscv'
import { createMachine } from '@ferryvm/machine'
import { afterAll, describe, expect, it } from 'vitest'
import type { VirtioBench } from '../harness/virtio-bench.ts'
import { blkRequest, startModern } from '../harness/virtio-driver.ts'
import { diskBehindIommu } from '../harness/vm.ts'
import { scratchFolder } from '../stock-qemu/stock-qemu.ts'
import { addi, encode, machineCode } from './guest-code.ts'

const scratch = scratchFolder()
afterAll(() => scratch.remove())

const RAM = 0x8000_0000
const FUNCTION = RAM + 0x2_0000
/** What the function returned last, and how often it was called. */
const RESULT = RAM + 0x3_0000
const VERSIONS = 12
const PAGE = 4096
const READ = 0

/** Calls the function for ever. */
const CALLER = [
  encode('auipc', { rd: 20, imm: FUNCTION - RAM }),
  encode('auipc', { rd: 21, imm: RESULT - RAM }),
  addi(21, 21, -4),
  encode('jalr', { rd: 1, rs1: 20 }),
  encode('sd', { rs1: 21, rs2: 10 }),
  addi(11, 11, 1),
  encode('sd', { rs1: 21, rs2: 11, imm: 8 }),
  encode('jal', { imm: -16 }),
]
/** Returns a number after a loop. */
const returning = (value: number): number[] => [
  addi(10, 0, value - 3),
  addi(5, 0, 3),
  addi(10, 10, 1),
  addi(5, 5, -1),
  encode('bne', { rs1: 5, rs2: 0, imm: -8 }),
  encode('jalr', { rs1: 1 }),
]

/** The test does what a driver in the guest would, from outside. */
function driverOf(machine: Machine): VirtioBench {
  const ram = machine.memory.blocks.find(({ idstr }) => idstr === 'riscv_virt_board.ram')!.bytes
  const at = (address: number): number => address - RAM
  const driver: Pick<VirtioBench, 'peek' | 'peek16' | 'poke' | 'poke16' | 'read' | 'write' | 'guestErrors'> = {
    guestErrors: [],
    read: (address, bytes = 4) => Number(machine.physical.mmioRead(address, bytes)),
    write: (address, value, bytes = 4) => void machine.physical.mmioWrite(address, bytes, BigInt(value)),
    peek: (address, bytes) => ram.slice(at(address), at(address) + bytes),
    poke: (address, bytes) => void ram.set(bytes, at(address)),
    peek16: (address) => ram[at(address)]! | (ram[at(address) + 1]! << 8),
    poke16: (address, value) => void ram.set([value & 0xff, value >> 8], at(address)),
  }
  return driver as VirtioBench
}

/** IOVAs are addresses plus this: VT-d maps the first 2 GiB of RAM there. Spec: VT-d, chapter 9. */
const IOVA_OFFSET = 0x4000_0000
const VTD = 0x400_0000
const TABLES = RAM + 0x50_0000
function translateThroughVtd(driver: VirtioBench): void {
  const [root, contexts, level3, level2, level1] = [0, 1, 2, 3, 4].map((n) => TABLES + n * PAGE) as [
    number,
    number,
    number,
    number,
    number,
  ]
  const word = (at: number, value: bigint) => driver.poke(at, new Uint8Array(BigUint64Array.of(value).buffer))
  const iova = RAM + IOVA_OFFSET
  word(root, BigInt(contexts) | 1n)
  // Function 00:01.0: present, second level, three levels, domain 7.
  word(contexts + 16 * 8, BigInt(level3) | 1n)
  word(contexts + 16 * 8 + 8, (7n << 8n) | 1n)
  word(level3 + 8 * ((iova / 2 ** 30) % 512), BigInt(level2) | 3n)
  for (let table = 0; table < 4; table++) word(level2 + 8 * table, BigInt(level1 + table * PAGE) | 3n)
  for (let page = 0; page < 4 * 512; page++) word(level1 + 8 * page, BigInt(RAM + page * PAGE) | 3n)
  driver.write(VTD + 0x20, root, 8)
  driver.write(VTD + 0x18, (1 << 30) >>> 0)
  driver.write(VTD + 0x18, (1 << 31) >>> 0)
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(1)
}

describe.each(ACCELERATORS)('a disk is read into the page of a hot function (%s)', (accel) => {
  it.each([
    ['with VT-d off', 0],
    ['through VT-d', IOVA_OFFSET],
  ])('%s: what was read runs, all of it and nothing else', { timeout: 60_000 }, async (_, iovaOffset) => {
    const path = join(scratch.path, `${accel}-${iovaOffset}.img`)
    const image = new Uint8Array(VERSIONS * PAGE)
    for (let v = 0; v < VERSIONS; v++) image.set(machineCode(returning(100 + v)), v * PAGE)
    writeFileSync(path, image)
    const [vtd, disk] = await diskBehindIommu(path)
    const board = virtBoard({
      kernel: machineCode(CALLER),
      ramBytes: 32 << 20,
      devices: [vtd!, disk!],
      log: silentLogger,
    })
    await using machine = await createMachine({ ...board, cpu: rv64({ accel, compileThreshold: 1 }) })
    const driver = driverOf(machine)
    const result = () => {
      const view = new DataView(driver.peek(RESULT, 16).buffer)
      return { value: Number(view.getBigUint64(0, true)), calls: view.getBigUint64(8, true) }
    }
    driver.poke(FUNCTION, machineCode(returning(99)))
    machine.start()
    await until(() => result().value === 99 && result().calls > 10_000n)
    if (iovaOffset) translateThroughVtd(driver)
    const { queues, notify } = startModern(driver, 1, { features: 3n << 32n, iovaOffset })
    for (let v = 0; v < VERSIONS; v++) {
      // The header lies before the page, the status behind it.
      blkRequest(driver, queues[0]!, { type: READ, sector: v * 8, read: PAGE, at: FUNCTION - 16 })
      notify(0)
      await queues[0]!.used(v + 1)
      await until(() => result().value === 100 + v)
      const { calls } = result()
      await until(() => result().calls > calls + 10_000n)
      expect(result().value).toBe(100 + v)
    }
    const info = machine.cpu.describeCompiler!()
    if (accel === 'jit') {
      const [, live, stale] = /([\d,]+) live, ([\d,]+) ended because their code changed/.exec(info)!
      expect(Number(live)).toBeGreaterThan(0)
      expect(Number(stale)).toBeGreaterThanOrEqual(VERSIONS)
    } else expect(info).toMatch(/interp/)
  })
})
