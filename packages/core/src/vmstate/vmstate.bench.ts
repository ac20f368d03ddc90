import { Bench } from 'tinybench'
import { bufferReader, drive } from '../qemufile/qemufile-reader.ts'
import { bufferWriter } from '../qemufile/qemufile-writer.ts'
import { createSaveStateRegistry } from '../registry/save-state-registry.ts'
import { u8Array, u64Array } from './array-rows.ts'
import { compileVmstate } from './codec.ts'
import { defineVmstate } from './define-vmstate.ts'
import { bool, u8, u16, u32, u64 } from './scalar-rows.ts'
import { struct, structArray } from './struct-rows.ts'
import type { Vmstate } from './table.ts'

/** Small and flat, as most devices: 11 bytes. */
const serial = defineVmstate({
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
    fcr: u8({ since: 3 }),
  },
  subsections: { 'serial/timeout': { fields: { timeout_ipending: bool() }, needed: (s) => s.timeout_ipending } },
})
const counter = defineVmstate({
  name: 'pmu',
  version: 1,
  fields: { val: u64(), valh: u64(), prev: u64(), prevh: u64() },
})
/** Registers in arrays, single 64-bit rows, nested structs: as a hart, about 2.5 KiB. */
const cpu = defineVmstate({
  name: 'cpu',
  version: 10,
  fields: {
    gpr: u64Array(32),
    fpr: u64Array(32),
    miprio: u8Array(64),
    siprio: u8Array(64),
    ...Object.fromEntries(Array.from({ length: 24 }, (_, i) => [`csr${i}`, u64()])),
    ...Object.fromEntries(Array.from({ length: 6 }, (_, i) => [`small${i}`, u32()])),
    debug: struct(counter),
    pmu: structArray(counter, 32),
    events: u64Array(32),
  },
})

/** ns per row for saving and loading, and the ratio of the two engines; ns per registered section. */
export default async function vmstateBench(report: (line: string) => void): Promise<void> {
  await benchTable(report, 'serial-like', serial, Object.keys(serial.table.fields).length)
  await benchTable(report, 'cpu-like', cpu, Object.keys(cpu.table.fields).length)
  await benchRegistry(report)
}

async function benchTable(report: (line: string) => void, name: string, vmstate: Vmstate<any>, rows: number) {
  const state = vmstate.createState()
  const writer = bufferWriter()
  compileVmstate(vmstate).save(state, writer)
  const bytes = writer.bytes()
  const bench = new Bench({ time: 300, warmupTime: 100 })
  for (const engine of ['interpreted', 'auto'] as const) {
    const codec = compileVmstate(vmstate, { engine })
    const out = bufferWriter()
    bench.add(`save ${engine}`, () => {
      codec.save(state, out)
      if (out.buffered > 1 << 20) out.bytes()
    })
    bench.add(`load ${engine}`, () => {
      const input = bufferReader(bytes)
      drive(input, codec.load(state, input, vmstate.version))
    })
  }
  await bench.run()
  for (const direction of ['save', 'load']) {
    const [slow, fast] = ['interpreted', 'auto'].map((engine) => medianNs(bench, `${direction} ${engine}`))
    const perRow = (ns: number) => `${ns.toFixed(0)} ns (${(ns / rows).toFixed(1)} ns/row)`
    report(
      `vmstate ${direction} ${name}, ${rows} rows, ${bytes.length} bytes: generated ${perRow(fast!)}, ` +
        `interpreted ${perRow(slow!)}, ratio ${(slow! / fast!).toFixed(1)}`,
    )
  }
}

async function benchRegistry(report: (line: string) => void): Promise<void> {
  const vmstates = Array.from({ length: 10_000 }, (_, i) =>
    defineVmstate({ name: `d${i}`, version: 1, fields: { a: u8() } }),
  )
  const bench = new Bench({ time: 300, warmupTime: 100 })
  for (const count of [100, 10_000]) {
    bench.add(`${count}`, () => {
      const registry = createSaveStateRegistry()
      for (let i = 0; i < count; i++) registry.register(vmstates[i]!, { a: 0 }, { priority: (i % 7) as 0 })
    })
  }
  await bench.run()
  const [few, many] = [100, 10_000].map((count) => medianNs(bench, `${count}`) / count)
  report(`registry: ${few!.toFixed(0)} ns per section with 100, ${many!.toFixed(0)} ns with 10000`)
}

function medianNs(bench: Bench, name: string): number {
  const result = bench.getTask(name)!.result
  if (!('latency' in result)) throw new Error(`${name} did not run`)
  return result.latency.p50 * 1e6
}
