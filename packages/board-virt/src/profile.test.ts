import { bufferWriter, StreamSaver } from '@ferryvm/core'
import { createMachine } from '@ferryvm/machine'
import { describe, expect, it } from 'vitest'
import { VIRT_PROFILES, type VirtProfile } from './profile.ts'
import { virtBoard } from './virt-board.ts'

const machineOf = (profile: VirtProfile) => createMachine(virtBoard({ profile, ramBytes: 2 ** 24 }))
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
    const acpi = machine.sections.find('virt_acpi_build', 0)!
    expect(acpi.device!.needed()).toBe(back)
  })

  // Spec: virt-machine.md section 6.7.
  it('has the files of fw_cfg under the keys of stock 7.2, which a guest that moves here may know', async () => {
    await using machine = await machineOf('qemu-7.2')
    const item = (key: number, bytes: number) => {
      machine.physical.mmioWrite(0x1010_0008, 2, BigInt(((key & 0xff) << 8) | (key >> 8)))
      return Buffer.from(Array.from({ length: bytes }, () => Number(machine.physical.mmioRead(0x1010_0000, 1))))
    }
    const directory = item(0x19, 4 + 3 * 64)
    expect(directory.readUInt32BE(0)).toBe(3)
    const files = [0, 1, 2].map((i) => directory.subarray(4 + 64 * i, 4 + 64 * (i + 1)))
    expect(
      files.map((f) => [f.readUInt16BE(4), f.readUInt32BE(0), f.subarray(8).toString().replace(/\0+$/, '')]),
    ).toEqual([
      [0x20, 0, 'bios-geometry'],
      [0x21, 0, 'bootorder'],
      [0x22, 4, 'etc/boot-fail-wait'],
    ])
    expect(item(0x22, 4).toString('hex')).toBe('ffffffff')
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
