/** The device tree of the `virt` board. Spec: virt-machine.md section 5; bindings: Linux Documentation/devicetree. */
import { APLIC_SOURCES, aplicBytes } from './aplic.ts'
import { cells, cells64, type FdtNode, fdtNode, flag, joined, text } from './fdt.ts'
import { imsicStrideBytes } from './imsic.ts'

/** In what the trees of two releases of stock QEMU differ; board-virt has the values. */
export interface DeviceTreeFacts {
  /** `riscv,isa` of every hart. */
  readonly isa: string
  readonly mmuType: string
  /** Harts also have `riscv,isa-base`, `riscv,isa-extensions` and the sizes of their cache blocks. */
  readonly isaLists: boolean
  /** `riscv,ndev`. */
  readonly plicSources: number
  /** Cells of `linux,initrd-start` and `-end`. */
  readonly initrdCells: 1 | 2
  /** Zeroes behind the events of the PMU. */
  readonly pmuPaddingCells: number
  /** There is `/aliases`, with the serial line. */
  readonly aliases: boolean
  /**
   * How APLIC and IMSIC are described. `draft`: as the binding was before it went into Linux. `final`: as it is there, with
   * node names and a compatible string of QEMU's own besides.
   */
  readonly aiaBinding: 'draft' | 'final'
}

/** What interrupts go through: the PLIC, an APLIC with wires to the harts, or one that sends messages to an IMSIC. */
export type InterruptControllers =
  | { readonly kind: 'plic' }
  | { readonly kind: 'aplic' }
  /** `guests`: interrupt files of each hart for guests of its supervisor. */
  | { readonly kind: 'aplic-imsic'; readonly guests: number }

export interface VirtDeviceTreeOptions {
  readonly harts: number
  readonly ramBytes: number
  readonly bootargs?: string
  /** Physical addresses, end exclusive. */
  readonly initrd?: { readonly start: number; readonly end: number }
  /** 32 bytes; absent: none. A board takes new ones at every reset. */
  readonly rngSeed?: Uint8Array
  readonly facts: DeviceTreeFacts
  /** Default: the PLIC. */
  readonly interrupts?: InterruptControllers
  /** How many virtio-mmio transports; default all 8. */
  readonly virtioMmio?: number
  /** Requester id of a virtio IOMMU in front of the PCI bus. */
  readonly virtioIommu?: number
  /** Says where the VT-d registers are, under the platform bus. `true`: at its start. */
  readonly vtd?: boolean | { readonly offset: number }
  /** There is a VM generation ID. */
  readonly vmgenid?: { readonly at: number; readonly irq: number }
  /** By absolute path (`/soc/thing@1000`): nodes added, or merged into one that is there. Parents must exist. */
  readonly extraNodes?: Readonly<Record<string, FdtNode>>
}

const RAM_BASE = 0x8000_0000
const PLATFORM_BUS = { base: 0x400_0000, sizeBytes: 0x200_0000 }
const VTD_REGISTERS_BYTES = 0x1000
const UART = '/soc/serial@10000000'
const HIGH_MMIO_ALIGN = 0x4_0000_0000
const CACHE_BLOCK_BYTES = 64
/** Those of IOMMUs begin here; others count from 1. */
const IOMMU_PHANDLE = 0x8000

const IMSIC_IDENTITIES = 255
const IPI_IDENTITY = 1
/** How a wire asks, second cell of an interrupt specifier of APLICs. */
const LEVEL_HIGH = 4

/** Machine interrupt inputs of `riscv,cpu-intc`. */
const IRQ = { msi: 3, mti: 7, sei: 9, mei: 11 }

/** A fresh tree; {@link flattenDeviceTree} makes the blob. Phandles are numbered as stock QEMU numbers them. */
export function virtDeviceTree(options: VirtDeviceTreeOptions): FdtNode {
  const { harts, ramBytes, facts, interrupts = { kind: 'plic' } } = options
  // Highest hart first, each cpu followed by its interrupt controller; then the board's, then the test finisher.
  const cpuPhandle = (hart: number): number => 1 + 2 * (harts - 1 - hart)
  const intcPhandle = (hart: number): number => cpuPhandle(hart) + 1
  const perHart = (...inputs: number[]): Uint8Array =>
    cells(...Array.from({ length: harts }, (_, h) => inputs.flatMap((input) => [intcPhandle(h), input])).flat())
  const controllers = interruptControllers(interrupts, facts, harts, 2 * harts + 1, perHart)
  const testPhandle = controllers.nextPhandle
  const wired = (irq: number): Record<string, Uint8Array> => ({
    'interrupt-parent': cells(controllers.wires),
    interrupts: cells(irq, ...controllers.trigger),
  })

  const soc: Record<string, FdtNode> = {
    'clint@2000000': node(['sifive,clint0', 'riscv,clint0'], {
      reg: cells64(0x200_0000, 0x1_0000),
      'interrupts-extended': perHart(IRQ.msi, IRQ.mti),
    }),
    ...controllers.nodes,
    'serial@10000000': node(['ns16550a'], {
      reg: cells64(0x1000_0000, 0x100),
      'clock-frequency': cells(3_686_400),
      ...wired(10),
    }),
    'rtc@101000': node(['google,goldfish-rtc'], { reg: cells64(0x10_1000, 0x1000), ...wired(11) }),
    'test@100000': node(['sifive,test1', 'sifive,test0', 'syscon'], {
      reg: cells64(0x10_0000, 0x1000),
      phandle: cells(testPhandle),
    }),
    'pci@30000000': pciHost(ramBytes, controllers, options.virtioIommu),
  }
  if (options.vmgenid) {
    const { at, irq } = options.vmgenid
    soc[`rng@${at.toString(16)}`] = node(['microsoft,vmgenid'], { reg: cells64(at, 16), ...wired(irq) })
  }
  for (let slot = 0; slot < (options.virtioMmio ?? 8); slot++) {
    const base = 0x1000_1000 + 0x1000 * slot
    soc[`virtio_mmio@${base.toString(16)}`] = node(['virtio,mmio'], { reg: cells64(base, 0x1000), ...wired(1 + slot) })
  }

  const root = fdtNode(
    {
      '#address-cells': cells(2),
      '#size-cells': cells(2),
      compatible: text('riscv-virtio'),
      model: text('riscv-virtio,qemu'),
    },
    {
      [`memory@${RAM_BASE.toString(16)}`]: fdtNode({ device_type: text('memory'), reg: cells64(RAM_BASE, ramBytes) }),
      cpus: cpusNode(options, cpuPhandle, intcPhandle),
      soc: fdtNode(
        { '#address-cells': cells(2), '#size-cells': cells(2), compatible: text('simple-bus'), ranges: flag() },
        soc,
      ),
      reboot: node(['syscon-reboot'], { regmap: cells(testPhandle), offset: cells(0), value: cells(0x7777) }),
      poweroff: node(['syscon-poweroff'], { regmap: cells(testPhandle), offset: cells(0), value: cells(0x5555) }),
      'flash@20000000': node(['cfi-flash'], {
        'bank-width': cells(4),
        reg: cells64(0x2000_0000, 0x200_0000, 0x2200_0000, 0x200_0000),
      }),
      'fw-cfg@10100000': node(['qemu,fw-cfg-mmio'], { reg: cells64(0x1010_0000, 0x18), 'dma-coherent': flag() }),
      [`platform-bus@${PLATFORM_BUS.base.toString(16)}`]: fdtNode(
        {
          compatible: text('qemu,platform', 'simple-bus'),
          '#address-cells': cells(1),
          '#size-cells': cells(1),
          ranges: joined(cells(0), cells64(PLATFORM_BUS.base), cells(PLATFORM_BUS.sizeBytes)),
          'interrupt-parent': cells(controllers.wires),
        },
        vtdNodes(options.vtd),
      ),
      pmu: node(['riscv,pmu'], { 'riscv,event-to-mhpmcounters': pmuEvents(facts) }),
      chosen: chosenNode(options),
      ...(facts.aliases ? { aliases: fdtNode({ serial0: text(UART) }) } : {}),
    },
  )
  for (const [path, extra] of Object.entries(options.extraNodes ?? {})) merge(root, path, extra)
  return root
}

const node = (compatible: string[], properties: Record<string, Uint8Array>): FdtNode =>
  fdtNode({ compatible: text(...compatible), ...properties })

interface Controllers {
  readonly nodes: Readonly<Record<string, FdtNode>>
  /** Phandle of what wires go to, and what their specifiers end with. */
  readonly wires: number
  readonly trigger: readonly number[]
  /** Phandle of what PCI functions send messages to. */
  readonly messages?: number
  readonly nextPhandle: number
}

/** @param perHart `interrupts-extended` with these inputs of every hart */
function interruptControllers(
  interrupts: InterruptControllers,
  { plicSources, aiaBinding }: DeviceTreeFacts,
  harts: number,
  firstPhandle: number,
  perHart: (...inputs: number[]) => Uint8Array,
): Controllers {
  if (interrupts.kind === 'plic') {
    const plic = node(['sifive,plic-1.0.0', 'riscv,plic0'], {
      reg: cells64(0xc00_0000, 0x60_0000),
      'interrupt-controller': flag(),
      '#interrupt-cells': cells(1),
      '#address-cells': cells(0),
      'riscv,ndev': cells(plicSources),
      'interrupts-extended': perHart(IRQ.mei, IRQ.sei),
      phandle: cells(firstPhandle),
    })
    return { nodes: { 'plic@c000000': plic }, wires: firstPhandle, trigger: [], nextPhandle: firstPhandle + 1 }
  }
  const nodes: Record<string, FdtNode> = {}
  const isFinal = aiaBinding === 'final'
  const names = isFinal
    ? { aplic: 'interrupt-controller', imsic: 'interrupt-controller' }
    : { aplic: 'aplic', imsic: 'imsics' }
  const compatible = (name: string) => [...(isFinal ? [`qemu,${name}`] : []), `riscv,${name}`]
  const sends = interrupts.kind === 'aplic-imsic'
  const [machineMessages, supervisorMessages] = [firstPhandle, firstPhandle + 1]
  if (interrupts.kind === 'aplic-imsic') {
    const { guests } = interrupts
    const stride = imsicStrideBytes(guests)
    const guestBits = Math.log2(stride / imsicStrideBytes(0))
    const imsic = (at: number, bytes: number, input: number, phandle: number): FdtNode =>
      node(compatible('imsics'), {
        reg: cells64(at, bytes),
        'interrupt-controller': flag(),
        '#interrupt-cells': cells(0),
        'msi-controller': flag(),
        'interrupts-extended': perHart(input),
        'riscv,num-ids': cells(IMSIC_IDENTITIES),
        ...(isFinal ? {} : { 'riscv,ipi-id': cells(IPI_IDENTITY) }),
        phandle: cells(phandle),
      })
    nodes[`${names.imsic}@24000000`] = imsic(0x2400_0000, harts * imsicStrideBytes(0), IRQ.mei, machineMessages)
    const supervisor = imsic(0x2800_0000, harts * stride, IRQ.sei, supervisorMessages)
    if (guestBits > 0) supervisor.properties['riscv,guest-index-bits'] = cells(guestBits)
    nodes[`${names.imsic}@28000000`] = supervisor
  }
  const machine = sends ? firstPhandle + 2 : firstPhandle
  const supervisor = machine + 1
  const aplic = (at: number, input: number, messages: number, phandle: number): FdtNode =>
    node(compatible('aplic'), {
      reg: cells64(at, aplicBytes(harts)),
      'interrupt-controller': flag(),
      '#interrupt-cells': cells(2),
      ...(isFinal ? { '#address-cells': cells(0) } : {}),
      'riscv,num-sources': cells(APLIC_SOURCES),
      ...(sends ? { 'msi-parent': cells(messages) } : { 'interrupts-extended': perHart(input) }),
      phandle: cells(phandle),
    })
  const root = aplic(0xc00_0000, IRQ.mei, machineMessages, machine)
  root.properties['riscv,children'] = cells(supervisor)
  root.properties['riscv,delegate'] = cells(supervisor, 1, APLIC_SOURCES)
  if (isFinal) root.properties['riscv,delegation'] = cells(supervisor, 1, APLIC_SOURCES)
  nodes[`${names.aplic}@c000000`] = root
  nodes[`${names.aplic}@d000000`] = aplic(0xd00_0000, IRQ.sei, supervisorMessages, supervisor)
  return {
    nodes,
    wires: supervisor,
    trigger: [LEVEL_HIGH],
    messages: sends ? supervisorMessages : undefined,
    nextPhandle: supervisor + 1,
  }
}

function cpusNode(
  { harts, facts: { isa, mmuType, isaLists } }: VirtDeviceTreeOptions,
  cpuPhandle: (hart: number) => number,
  intcPhandle: (hart: number) => number,
): FdtNode {
  const [letters, ...named] = isa.split('_')
  const cpus = fdtNode({ '#address-cells': cells(1), '#size-cells': cells(0), 'timebase-frequency': cells(10_000_000) })
  const cores: Record<string, FdtNode> = {}
  for (let hart = 0; hart < harts; hart++) {
    cpus.children[`cpu@${hart.toString(16)}`] = fdtNode(
      {
        device_type: text('cpu'),
        reg: cells(hart),
        status: text('okay'),
        compatible: text('riscv'),
        'riscv,isa': text(isa),
        ...(isaLists
          ? {
              'riscv,isa-base': text('rv64i'),
              'riscv,isa-extensions': text(...letters!.slice('rv64'.length), ...named),
              'riscv,cbom-block-size': cells(CACHE_BLOCK_BYTES),
              'riscv,cboz-block-size': cells(CACHE_BLOCK_BYTES),
              'riscv,cbop-block-size': cells(CACHE_BLOCK_BYTES),
            }
          : {}),
        'mmu-type': text(mmuType),
        phandle: cells(cpuPhandle(hart)),
      },
      {
        'interrupt-controller': fdtNode({
          compatible: text('riscv,cpu-intc'),
          'interrupt-controller': flag(),
          '#interrupt-cells': cells(1),
          phandle: cells(intcPhandle(hart)),
        }),
      },
    )
    cores[`core${hart}`] = fdtNode({ cpu: cells(cpuPhandle(hart)) })
  }
  cpus.children['cpu-map'] = fdtNode({}, { cluster0: fdtNode({}, cores) })
  return cpus
}

/** Spec: virt-machine.md section 5, below the table; section 2 for the swizzle. */
function pciHost(ramBytes: number, { wires, trigger, messages }: Controllers, iommu: number | undefined): FdtNode {
  const high = Math.ceil((RAM_BASE + ramBytes) / HIGH_MMIO_ALIGN) * HIGH_MMIO_ALIGN
  const map: number[] = []
  for (let slot = 0; slot < 4; slot++) {
    for (let pin = 1; pin <= 4; pin++) map.push(slot << 11, 0, 0, pin, wires, 32 + ((slot + pin - 1) % 4), ...trigger)
  }
  const properties = {
    compatible: text('pci-host-ecam-generic'),
    device_type: text('pci'),
    'linux,pci-domain': cells(0),
    'bus-range': cells(0, 255),
    'dma-coherent': flag(),
    '#address-cells': cells(3),
    '#size-cells': cells(2),
    '#interrupt-cells': cells(1),
    reg: cells64(0x3000_0000, 0x1000_0000),
    ranges: joined(
      cells(0x0100_0000, 0, 0),
      cells64(0x300_0000, 0x1_0000),
      cells(0x0200_0000),
      cells64(0x4000_0000, 0x4000_0000, 0x4000_0000),
      cells(0x0300_0000),
      cells64(high, high, HIGH_MMIO_ALIGN),
    ),
    'interrupt-map-mask': cells(0x1800, 0, 0, 7),
    'interrupt-map': cells(...map),
    ...(messages === undefined ? {} : { 'msi-parent': cells(messages) }),
  }
  if (iommu === undefined) return fdtNode(properties)
  const translated = cells(0, IOMMU_PHANDLE, 0, iommu, iommu + 1, IOMMU_PHANDLE, iommu + 1, 0xffff - iommu)
  const name = `virtio_iommu@${(iommu >> 3).toString(16)},${(iommu & 7).toString(16)}`
  return fdtNode(
    { ...properties, 'iommu-map': translated },
    {
      [name]: fdtNode({
        compatible: text('virtio,pci-iommu', 'pci1af4,1057'),
        reg: cells(iommu << 8, 0, 0, 0, 0),
        '#iommu-cells': cells(1),
        phandle: cells(IOMMU_PHANDLE),
      }),
    },
  )
}

/** Our own extension, so with a compatible string of our own: stock's board has no VT-d. */
function vtdNodes(vtd: VirtDeviceTreeOptions['vtd']): Record<string, FdtNode> {
  if (!vtd) return {}
  const offset = vtd === true ? 0 : vtd.offset
  const iommu = fdtNode({ compatible: text('ferryvm,intel-iommu'), reg: cells(offset, VTD_REGISTERS_BYTES) })
  return { [`iommu@${offset.toString(16)}`]: iommu }
}

function pmuEvents({ pmuPaddingCells }: DeviceTreeFacts): Uint8Array {
  const cycles = [0x1, 0x1, 0x7fff9]
  const instructions = [0x2, 0x2, 0x7fffc]
  const tlbMisses = [0x10019, 0x1001b, 0x10021].flatMap((event) => [event, event, 0x7fff8])
  return cells(...cycles, ...instructions, ...tlbMisses, ...Array<number>(pmuPaddingCells).fill(0))
}

function chosenNode({ bootargs, initrd, rngSeed, facts }: VirtDeviceTreeOptions): FdtNode {
  const address = facts.initrdCells === 2 ? cells64 : cells
  const properties: Record<string, Uint8Array> = { 'stdout-path': text(UART) }
  if (bootargs !== undefined) properties.bootargs = text(bootargs)
  if (initrd) {
    properties['linux,initrd-start'] = address(initrd.start)
    properties['linux,initrd-end'] = address(initrd.end)
  }
  if (rngSeed) properties['rng-seed'] = rngSeed
  return fdtNode(properties)
}

function merge(root: FdtNode, path: string, extra: FdtNode): void {
  let at = root
  const names = path.split('/').filter((name) => name !== '')
  names.forEach((name, depth) => {
    const next = at.children[name]
    if (next) at = next
    else if (depth === names.length - 1) at = at.children[name] = fdtNode()
    else throw new RangeError(`device tree: ${path}: there is no ${names.slice(0, depth + 1).join('/')}`)
  })
  Object.assign(at.properties, extra.properties)
  Object.assign(at.children, extra.children)
}
