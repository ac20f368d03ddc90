import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { bufferWriter } from '../qemufile/qemufile-writer.ts'
import { buffer, i32Array, u8Array, u32Array, u64Array, unused } from './array-rows.ts'
import { compileVmstate } from './codec.ts'
import { defineVmstate } from './define-vmstate.ts'
import { formatSection } from './description.ts'
import { bool, i32Equal, i32Le, i64, u8, u16, u32, u64 } from './scalar-rows.ts'
import { custom, struct } from './struct-rows.ts'
import type { Vmstate } from './table.ts'
import { ENGINES, fromHex, hex, loadWith } from './vmstate-testing.ts'

/** Sections of stock QEMU 7.2 and 10.0, bytes and description as recorded; rows from spec virt-vmstate.md and iommu.md. */
interface StockSection {
  readonly stream: string
  readonly style: '7.2' | '10.0'
  readonly idstr: string
  readonly version: number
  readonly body: string
  readonly vmdesc: string
}
const sections: StockSection[] = JSON.parse(
  readFileSync(new URL('./__fixtures__/stock-sections.json', import.meta.url), 'utf8'),
)

const raw = (wire: string, bytes: number) =>
  custom<Uint8Array>({
    wire,
    reset: () => new Uint8Array(bytes),
    put: (value, out) => out.putBuffer(value),
    *get(input, current) {
      if (input.available < bytes) yield bytes
      input.getBuffer(current)
      return current
    },
  })

const serialState = defineVmstate({
  name: 'serial',
  version: 3,
  minimumVersion: 2,
  fields: {
    divider: u16({ since: 2 }),
    rbr: u8(),
    ier: u8(),
    iir: u8(),
    lcr: u8(),
    mcr: u8(),
    lsr: u8(),
    msr: u8(),
    scr: u8(),
    fcr_vmstate: u8({ since: 3 }),
  },
})
const pciDevice = defineVmstate({
  name: 'PCIDevice',
  version: 2,
  minimumVersion: 1,
  fields: {
    version_id: i32Le('', { reset: 2 }),
    // Two rows named `config`: conventional (256 bytes) and express (4096).
    config: raw('pci config', 256),
    expressConfig: buffer(4096, { wireName: 'config', when: () => false }),
    irq_state: raw('pci irq state', 16),
  },
})
const HARTS = 2
const tables = (style: StockSection['style']): Record<string, Vmstate<any>> => ({
  timer: defineVmstate({
    name: 'timer',
    version: 2,
    minimumVersion: 1,
    fields: { cpu_ticks_offset: i64(), old_ticks: unused(8), cpu_clock_offset: i64({ since: 2 }) },
  }),
  cpu_common: defineVmstate({ name: 'cpu_common', version: 1, fields: { halted: u32(), interrupt_request: u32() } }),
  riscv_mtimer: defineVmstate({ name: 'riscv_mtimer', version: 1, fields: { timecmp: u64Array(HARTS) } }),
  riscv_sifive_plic: defineVmstate({
    name: 'riscv_sifive_plic',
    version: 1,
    fields: {
      source_priority: u32Array(96),
      target_priority: u32Array(2 * HARTS),
      pending: u32Array(3),
      claimed: u32Array(3),
      enable: u32Array(6 * HARTS),
    },
  }),
  fw_cfg: defineVmstate({
    name: 'fw_cfg',
    version: 2,
    minimumVersion: 1,
    fields: {
      cur_entry: u16(),
      cur_offset16: u16({ wireName: 'cur_offset', when: (_, version) => version === 1 }),
      cur_offset: u32({ since: 2 }),
    },
    subsections: {
      'fw_cfg/dma': { version: 0, fields: { dma_addr: u64() }, needed: () => true },
      'fw_cfg/acpi_mr': {
        fields: { table_mr_size: u64(), linker_mr_size: u64(), rsdp_mr_size: u64() },
        needed: () => style === '10.0',
      },
    },
  }),
  '0000:00:00.0/gpex_root': defineVmstate({ name: 'gpex_root', version: 1, fields: { parent_obj: struct(pciDevice) } }),
  PCIHost: defineVmstate({ name: 'PCIHost', version: 1, fields: { config_reg: u32() } }),
  PCIBUS: defineVmstate({
    name: 'PCIBUS',
    version: 1,
    fields: { nirq: i32Equal('number of INTx lines', { reset: 4 }), irq_count: i32Array(4) },
  }),
  serial: defineVmstate({ name: 'serial', version: 3, minimumVersion: 2, fields: { serial: struct(serialState) } }),
  goldfish_rtc: defineVmstate({
    name: 'goldfish_rtc',
    version: 3,
    fields: {
      tick_offset_vmstate: u64(),
      alarm_next: u64(),
      alarm_running: u32(),
      irq_pending: u32(),
      irq_enabled: u32(),
      time_high: u32(),
      tick_offset: u64({ since: 3 }),
    },
  }),
  pflash_cfi01: defineVmstate({
    name: 'pflash_cfi01',
    version: 1,
    fields: { wcycle: u8(), cmd: u8(), status: u8(), counter: u64() },
  }),
  virt_acpi_build: defineVmstate({ name: 'virt_acpi_build', version: 1, fields: { patched: bool() } }),
  globalstate: defineVmstate({
    name: 'globalstate',
    version: 1,
    fields:
      style === '7.2'
        ? { size: u32(), runstate: buffer(100) }
        : {
            size: u32(),
            runstate: buffer(32),
            has_vm_was_suspended: u8(),
            vm_was_suspended: u8(),
            padding: buffer(66, { wireName: 'unused' }),
          },
  } as any),
  'iommu-intel': defineVmstate({
    name: 'iommu-intel',
    version: 1,
    fields: {
      root: u64(),
      intr_root: u64(),
      iq: u64(),
      intr_size: u32(),
      iq_head: u16(),
      iq_tail: u16(),
      iq_size: u16(),
      next_frcd_reg: u16(),
      csr: u8Array(560),
      iq_last_desc_type: u8(),
      retired: unused(1),
      dmar_enabled: bool(),
      qi_enabled: bool(),
      intr_enabled: bool(),
      intr_eime: bool(),
    },
  }),
})

describe.each(ENGINES)('sections recorded from stock QEMU, engine %s', (engine) => {
  it.each(sections)('$stream: $idstr', ({ style, idstr, version, body, vmdesc }) => {
    const vmstate = tables(style)[idstr]!
    const codec = compileVmstate(vmstate, { engine })
    const state = vmstate.createState()
    expect(loadWith(codec, state, fromHex(body), version)).toBe(0)
    const out = bufferWriter()
    const description = codec.describe(state, { out, style })
    expect(hex(out.bytes())).toBe(body)
    expect(formatSection({ name: idstr, instanceId: 0, vmstate: description })).toBe(vmdesc)
  })
})
