import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { type FdtNode, flattenDeviceTree, parseDeviceTree } from './fdt.ts'
import { virtDeviceTree } from './virt-device-tree.ts'

const has = (program: string) => spawnSync(program, ['--version']).status === 0
const wanted = Boolean(process.env.CI || process.env.FERRY_REQUIRE_QEMU)
const available = has('qemu-system-riscv64') && has('dtc')
if (!available && !wanted) console.log('skipped: qemu-system-riscv64 or dtc is not installed')

// Spec: virt-machine.md section 5.
describe.skipIf(!available && !wanted)('the device tree beside the one of stock QEMU 7.2', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-dtb-'))
  afterAll(() => rmSync(folder, { recursive: true }))

  const stockTree = (harts: number) => {
    const file = join(folder, `stock-${harts}.dtb`)
    execFileSync('qemu-system-riscv64', ['-M', `virt,dumpdtb=${file}`, '-smp', `${harts}`, '-m', '128M'], {
      stdio: 'pipe',
    })
    return { file, tree: parseDeviceTree(readFileSync(file)) }
  }
  const warnings = (file: string) =>
    spawnSync('dtc', ['-I', 'dtb', '-O', 'dts', '-o', '/dev/null', file], { encoding: 'utf8' })
      .stderr.split('\n')
      .map((line) => line.replace(/^.*?: (?=Warning|ERROR)/, ''))
      .filter((line) => line !== '')
      .sort()

  it.each([1, 2])('has the same nodes and properties for %i hart(s), and dtc complains no more', (harts) => {
    const stock = stockTree(harts)
    delete (stock.tree.children.chosen!.properties as Record<string, Uint8Array>)['rng-seed']
    const ours = virtDeviceTree({ harts, ramBytes: 128 * 2 ** 20 })
    expect(printable(ours)).toEqual(printable(stock.tree))

    const file = join(folder, `ours-${harts}.dtb`)
    const options = { harts, ramBytes: 128 * 2 ** 20, rngSeed: new Uint8Array(32).fill(7), vtd: true }
    writeFileSync(file, flattenDeviceTree(virtDeviceTree(options)))
    expect(warnings(file)).toEqual(warnings(stock.file))
  })
})

const printable = ({ properties, children }: FdtNode): object => ({
  properties: Object.fromEntries(Object.entries(properties).map(([k, v]) => [k, Buffer.from(v).toString('hex')])),
  children: Object.fromEntries(Object.entries(children).map(([k, v]) => [k, printable(v)])),
})
