import { bufferReader, bufferWriter, drive, type Machine, StreamSaver } from '@ferryvm/core'
import { createMachine } from '@ferryvm/machine'
import { describe, expect, it } from 'vitest'
import { VIRT_PROFILES, type VirtProfile } from './profile.ts'
import { virtBoard } from './virt-board.ts'

const machineOf = (profile: VirtProfile) => createMachine(virtBoard({ profile, ramBytes: 2 ** 24 }))
/** Items of fw_cfg as a guest reads them. Spec: virt-machine.md section 6.7. */
const fwCfgItem = (machine: Machine, key: number, bytes: number) => {
  machine.physical.mmioWrite(0x1010_0008, 2, BigInt(((key & 0xff) << 8) | (key >> 8)))
  return Buffer.from(Array.from({ length: bytes }, () => Number(machine.physical.mmioRead(0x1010_0000, 1))))
}
const fwCfgDirectory = (machine: Machine) => {
  const count = fwCfgItem(machine, 0x19, 4).readUInt32BE(0)
  const directory = fwCfgItem(machine, 0x19, 4 + count * 64)
  return Array.from({ length: count }, (_, i) => {
    const entry = directory.subarray(4 + 64 * i, 4 + 64 * (i + 1))
    return [entry.readUInt16BE(4), entry.readUInt32BE(0), entry.subarray(8).toString().replace(/\0+$/, '')]
  })
}
/** Loads a section as stock 10.0 sent it. */
async function arrive(machine: Machine, idstr: string, version: number, hex: string) {
  const { codec, state } = machine.sections.find(idstr, 0)!.device!.layout(version)!
  const input = bufferReader(Uint8Array.from([...Buffer.from(hex, 'hex'), 0x7e]))
  await drive(input, codec.load(state, input, version))
}
const FW_CFG_WITH_ACPI =
  '001900000004050a66775f6366672f646d61000000000000000000000000050e66775f6366672f616370695f6d7200000001' +
  '000000000002000000000000000009000000000000000024'
const ACPI = ['/rom@etc/acpi/tables', '/rom@etc/table-loader', '/rom@etc/acpi/rsdp']

// Spec: virt-vmstate.md section 2.
describe('profiles of the board', () => {
  it.each(Object.keys(VIRT_PROFILES) as VirtProfile[])(
    '%s sends the blocks and sections of a stock machine',
    async (p) => {
      await using machine = await machineOf(p)
      expect(machine.migratableBlocks().map((b) => [b.idstr, b.sizeBytes])).toEqual([
        ['virt.flash0', 2 ** 25],
        ['virt.flash1', 2 ** 25],
        ['riscv_virt_board.ram', 2 ** 24],
        ['riscv_virt_board.mrom', 61440],
      ])
      const sent = machine.sections.entries().filter((e) => e.device?.needed())
      const idstrs = sent.map((e) => e.idstr)
      expect(idstrs).not.toContain('slirp')
      expect(idstrs).not.toContain('virt_acpi_build')
      expect(sent.find((e) => e.idstr === 'cpu')!.version).toBe(p === 'qemu-7.2' ? 5 : 10)
      expect(idstrs.indexOf('fw_cfg') < idstrs.indexOf('PCIHost')).toBe(p === 'qemu-10.0')
      expect(machine.stream?.sendSwitchoverStart).toBe(p === 'qemu-10.0')
    },
  )

  it.each([
    ['qemu-10.0', true],
    ['qemu-7.2', false],
  ] as const)('%s gives ACPI tables that arrived back: %s', async (profile, back) => {
    await using machine = await machineOf(profile)
    for (const name of ACPI) machine.memory.blocks.find((b) => b.idstr === name)!.onReceived!()
    const names = machine.migratableBlocks().map((b) => b.idstr)
    // Spec: virt-vmstate.md section 2, order of a 10.0 machine with 16 MiB.
    if (back) {
      expect(names).toEqual([
        'virt.flash0',
        'virt.flash1',
        'riscv_virt_board.ram',
        ACPI[0],
        ACPI[1],
        'riscv_virt_board.mrom',
        ACPI[2],
      ])
    } else expect(names.filter((n) => n.startsWith('/rom@'))).toEqual([])
    await arrive(machine, 'virt_acpi_build', 1, '01')
    const acpi = machine.sections.find('virt_acpi_build', 0)!
    expect(acpi.device!.needed()).toBe(back)
  })

  it('has the files of fw_cfg under the keys of stock 7.2, which a guest that moves here may know', async () => {
    await using machine = await machineOf('qemu-7.2')
    const files = [
      [0x20, 0, 'bios-geometry'],
      [0x21, 0, 'bootorder'],
      [0x22, 4, 'etc/boot-fail-wait'],
    ]
    expect(fwCfgDirectory(machine)).toEqual(files)
    expect(fwCfgItem(machine, 0x22, 4).toString('hex')).toBe('ffffffff')
    await arrive(machine, 'fw_cfg', 2, FW_CFG_WITH_ACPI)
    expect(fwCfgDirectory(machine)).toEqual(files)
  })

  it('has them under the keys of stock 10.0, and serves the ACPI tables that arrived', async () => {
    await using machine = await machineOf('qemu-10.0')
    const own = [
      [0x20, 0, 'bios-geometry'],
      [0x21, 0, 'bootorder'],
      [0x24, 4, 'etc/boot-fail-wait'],
    ]
    expect(fwCfgDirectory(machine)).toEqual(own)
    expect(fwCfgItem(machine, 0x22, 1)[0]).toBe(0)
    for (const name of ACPI) {
      const block = machine.memory.blocks.find((b) => b.idstr === name)!
      block.bytes.set(Buffer.from(name))
      block.onReceived!()
    }
    await arrive(machine, 'fw_cfg', 2, FW_CFG_WITH_ACPI)
    expect(fwCfgDirectory(machine)).toEqual([
      own[0],
      own[1],
      [0x22, 36, 'etc/acpi/rsdp'],
      [0x23, 131072, 'etc/acpi/tables'],
      own[2],
      [0x27, 0x900, 'etc/table-loader'],
    ])
    expect(fwCfgItem(machine, 0x23, 20).toString()).toBe('/rom@etc/acpi/tables')
  })

  // Spec: stream.md section 6.
  it.each([
    ['qemu-7.2', ['page_size', 'devices']],
    ['qemu-10.0', ['configuration', 'page_size', 'devices']],
  ] as const)('%s describes its stream as that release does', async (profile, keys) => {
    await using machine = await machineOf(profile)
    const out = bufferWriter()
    const saver = new StreamSaver(out, machine.sections, { settings: machine.stream })
    saver.begin({ machineName: 'virt' })
    await saver.saveDevices()
    saver.end()
    const text = new TextDecoder().decode(out.bytes())
    expect(Object.keys(JSON.parse(text.slice(text.search(/\{"(configuration|page_size)"/))))).toEqual(keys)
  })

  it('reads both layouts of the cpu section, and the state of a network that it does not have', async () => {
    await using machine = await machineOf('qemu-7.2')
    const cpu = machine.sections.find('cpu', 0)!.device!
    expect([5, 10, 7].map((version) => cpu.layout(version)?.vmstate.version)).toEqual([5, 10, undefined])
    expect(machine.sections.find('slirp', 0)).toBeDefined()
  })
})
