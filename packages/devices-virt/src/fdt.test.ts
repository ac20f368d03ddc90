import { describe, expect, it } from 'vitest'
import { cells, DeviceTreeFormatError, fdtNode, flag, flattenDeviceTree, parseDeviceTree, text } from './fdt.ts'
import { type DeviceTreeFacts, virtDeviceTree } from './virt-device-tree.ts'

const facts: DeviceTreeFacts = {
  isa: 'rv64imac_zicsr_zifencei',
  mmuType: 'riscv,sv39',
  isaLists: false,
  plicSources: 95,
  initrdCells: 1,
  pmuPaddingCells: 0,
  aliases: false,
  aiaBinding: 'draft',
}

describe('flattened device trees', () => {
  const tree = fdtNode(
    { '#address-cells': cells(2), model: text('one', 'two'), empty: flag(), odd: Uint8Array.of(1, 2, 3) },
    { 'a@1': fdtNode({ reg: cells(1) }, { b: fdtNode() }), c: fdtNode({ reg: cells(2) }) },
  )

  it('come back as they were', () => {
    expect(parseDeviceTree(flattenDeviceTree(tree))).toEqual(tree)
  })

  it('say their own length, and share property names', () => {
    const blob = flattenDeviceTree(tree)
    expect(new DataView(blob.buffer).getUint32(4)).toBe(blob.length)
    expect(Buffer.from(blob).toString('latin1').split('reg\0').length).toBe(2)
  })

  it('are refused when damaged, wherever that is, and never loop', () => {
    const blob = flattenDeviceTree(tree)
    for (let at = 0; at < blob.length; at++) {
      for (const damage of [blob.slice(0, at), blob.with(at, 0xff)]) {
        try {
          parseDeviceTree(damage)
        } catch (error) {
          expect(error).toBeInstanceOf(DeviceTreeFormatError)
        }
      }
    }
  })
})

describe('virtDeviceTree', () => {
  it('says where the VT-d registers are', () => {
    const tree = virtDeviceTree({ harts: 1, ramBytes: 2 ** 27, facts, vtd: true })
    const iommu = tree.children['platform-bus@4000000']!.children['iommu@0']!
    expect(iommu.properties).toEqual({ compatible: text('ferryvm,intel-iommu'), reg: cells(0, 0x1000) })
  })

  it('takes boot arguments, an initrd and nodes of others', () => {
    const tree = virtDeviceTree({
      harts: 1,
      ramBytes: 2 ** 27,
      facts,
      bootargs: 'console=ttyS0',
      initrd: { start: 0x8420_0000, end: 0x8430_0000 },
      extraNodes: { '/soc/acme@1': fdtNode({ compatible: text('acme') }) },
    })
    expect(tree.children.chosen!.properties.bootargs).toEqual(text('console=ttyS0'))
    expect(tree.children.chosen!.properties['linux,initrd-end']).toEqual(cells(0x8430_0000))
    expect(tree.children.soc!.children['acme@1']!.properties.compatible).toEqual(text('acme'))
    const noParent = () => virtDeviceTree({ harts: 1, ramBytes: 2 ** 27, facts, extraNodes: { '/x/y': fdtNode() } })
    expect(noParent).toThrow('/x/y')
  })

  it('moves the high PCI window above large RAM', () => {
    const ranges = virtDeviceTree({ harts: 1, ramBytes: 16 * 2 ** 30, facts }).children.soc!.children['pci@30000000']!
      .properties
    expect(Buffer.from(ranges.ranges!).readUInt32BE(4 * 15)).toBe(8)
  })
})
