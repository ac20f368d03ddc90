import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { VIRT_PROFILES, type VirtProfile } from '@ferryvm/board-virt'
import { withInterruptFiles } from '@ferryvm/cpu-riscv'
import {
  type FdtNode,
  flattenDeviceTree,
  type InterruptControllers,
  parseDeviceTree,
  virtDeviceTree,
} from '@ferryvm/devices-virt'
import { afterAll, describe, expect, it } from 'vitest'
import { stockQemu10 } from './stock-qemu/stock-10.ts'
import { stockQemuCommand, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const dtcMissing = spawnSync('dtc', ['--version']).error && !process.env.FERRY_REQUIRE_QEMU && !process.env.CI
const missing = stockQemuMissing() ?? (dtcMissing ? 'dtc is not installed' : undefined)
if (missing) console.warn(`skipped: ${missing}`)
const RAM_BYTES = 128 * 2 ** 20

// Spec: virt-machine.md section 5.
describe.skipIf(missing)('the device tree beside the one of stock QEMU', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-dtb-'))
  afterAll(() => rmSync(folder, { recursive: true }))

  const stocks = { 'qemu-7.2': { command: stockQemuCommand, args: [], env: {} }, 'qemu-10.0': stockQemu10() }
  const stockTree = (profile: VirtProfile, harts: number, more: string[] = [], board = 'virt') => {
    const file = join(folder, `stock-${profile}-${harts}-${more.length}-${board.replaceAll(',', '-')}.dtb`)
    const { command, args, env } = stocks[profile]!
    execFileSync(command, [...args, '-M', `${board},dumpdtb=${file}`, '-smp', `${harts}`, '-m', '128M', ...more], {
      stdio: 'pipe',
      env: { ...process.env, ...env },
    })
    return { file, tree: parseDeviceTree(readFileSync(file)) }
  }
  const ourTree = (profile: VirtProfile, harts: number, more = {}) => {
    const { cpu, deviceTree } = VIRT_PROFILES[profile]
    const facts = { ...deviceTree, isa: cpu.isa, mmuType: cpu.mmuType }
    return virtDeviceTree({ harts, ramBytes: RAM_BYTES, facts, ...more })
  }
  const warnings = (file: string) =>
    spawnSync('dtc', ['-I', 'dtb', '-O', 'dts', '-o', '/dev/null', file], { encoding: 'utf8' })
      .stderr.split('\n')
      .map((line) => line.replace(/^.*?: (?=Warning|ERROR)/, ''))
      .filter((line) => line !== '')
      .sort()

  for (const profile of Object.keys(VIRT_PROFILES) as VirtProfile[]) {
    it.skipIf(!stocks[profile]).each([1, 2])(
      `${profile}: the same nodes and properties for %i hart(s), and dtc complains no more`,
      (harts) => {
        const stock = stockTree(profile, harts)
        delete (stock.tree.children.chosen!.properties as Record<string, Uint8Array>)['rng-seed']
        expect(printable(ourTree(profile, harts))).toEqual(printable(stock.tree))

        const file = join(folder, `ours-${profile}-${harts}.dtb`)
        writeFileSync(
          file,
          flattenDeviceTree(ourTree(profile, harts, { rngSeed: new Uint8Array(32).fill(7), vtd: true })),
        )
        expect(warnings(file)).toEqual(warnings(stock.file))
      },
    )
  }

  const controllers: readonly [harts: number, board: string, interrupts: InterruptControllers][] = [
    [1, 'virt,aia=aplic', { kind: 'aplic' }],
    [2, 'virt,aia=aplic', { kind: 'aplic' }],
    [1, 'virt,aia=aplic-imsic', { kind: 'aplic-imsic', guests: 0 }],
    [2, 'virt,aia=aplic-imsic,aia-guests=3', { kind: 'aplic-imsic', guests: 3 }],
    [5, 'virt,aia=aplic-imsic,aia-guests=4', { kind: 'aplic-imsic', guests: 4 }],
  ]
  for (const profile of Object.keys(VIRT_PROFILES) as VirtProfile[]) {
    it.skipIf(!stocks[profile]).each(controllers)(`${profile}: %i hart(s) with -M %s`, (harts, board, interrupts) => {
      const stock = stockTree(profile, harts, [], board)
      delete (stock.tree.children.chosen!.properties as Record<string, Uint8Array>)['rng-seed']
      const { cpu, deviceTree } = VIRT_PROFILES[profile]
      const { isa, mmuType } = interrupts.kind === 'aplic-imsic' ? withInterruptFiles(cpu, interrupts.guests) : cpu
      const ours = ourTree(profile, harts, { facts: { ...deviceTree, isa, mmuType }, interrupts })
      expect(printable(ours)).toEqual(printable(stock.tree))
    })
  }

  it.skipIf(!stocks['qemu-10.0'])('says where a virtio IOMMU is', () => {
    const stock = stockTree('qemu-10.0', 1, ['-nodefaults', '-device', 'virtio-rng-pci', '-device', 'virtio-iommu-pci'])
    delete (stock.tree.children.chosen!.properties as Record<string, Uint8Array>)['rng-seed']
    expect(printable(ourTree('qemu-10.0', 1, { virtioIommu: 2 << 3 }))).toEqual(printable(stock.tree))
  })
})

const printable = ({ properties, children }: FdtNode): object => ({
  properties: Object.fromEntries(Object.entries(properties).map(([k, v]) => [k, Buffer.from(v).toString('hex')])),
  children: Object.fromEntries(Object.entries(children).map(([k, v]) => [k, printable(v)])),
})
