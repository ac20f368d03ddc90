import { readdirSync, readFileSync } from 'node:fs'
import { bufferReader, bufferWriter, compileVmstate, drive, VmstateMismatchError } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { HartState, WORD } from '../hart/hart-state.ts'
import { hartAreaBytes, LAYOUT } from '../hart/layout.ts'
import { PROFILES } from '../hart/profile.ts'
import { resetHart } from '../hart/reset.ts'
import { cpuCommonVmstate, cpuVmstate } from './cpu-vmstate.ts'

interface Section {
  idstr: string
  instanceId: number
  version: number
  bytes: string
  description: object
}
const folder = new URL('./__fixtures__/', import.meta.url)
const fixtures = readdirSync(folder).filter((name) => name.endsWith('.json'))
const read = (name: string): Section[] => JSON.parse(readFileSync(new URL(name, folder), 'utf8'))

function hartFor(name: string, index: number) {
  const profile = PROFILES[name.startsWith('rv72') ? 'qemu-7.2' : 'qemu-10.0']
  const hart = new HartState(new SharedArrayBuffer(hartAreaBytes(0)), 0, index)
  resetHart(hart, profile)
  const parts = {
    hart,
    profile,
    pending: () => hart.i32[WORD.mip] | hart.i32[WORD.externalIrq] | (timer ? 1 << 7 : 0),
    loaded: () => {},
  }
  let timer = false
  return {
    hart,
    tables: { cpu: cpuVmstate(parts), cpu_common: cpuCommonVmstate(parts) },
    setTimer: (on: boolean) => (timer = on),
  }
}

function load(vmstate: any, bytes: Uint8Array, version: number, state = vmstate.createState()) {
  const codec = compileVmstate<any>(vmstate)
  const input = bufferReader(bytes)
  drive(input, codec.load(state, input, version))
  expect(input.available).toBe(0)
  return { codec, state }
}
/** Names the first byte that differs: the whole would be six kilobytes of zeros. */
function expectBytes(bytes: Uint8Array, section: Section): void {
  const wanted = Buffer.from(section.bytes, 'hex')
  expect(bytes.length).toBe(wanted.length)
  const differing = [...wanted.keys()].filter((i) => bytes[i] !== wanted[i])
  expect(differing.map((i) => `${i}: ${bytes[i]} instead of ${wanted[i]}`)).toEqual([])
}
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

// Spec: virt-vmstate.md section 4. The bytes are those of stock QEMU.
describe.each(fixtures)('%s', (name) => {
  it.each(read(name).map((section) => [section.idstr, section.instanceId, section] as const))(
    '%s %i leaves as it came',
    (idstr, index, section) => {
      const { hart, tables, setTimer } = hartFor(name, index)
      const bytes = Uint8Array.from(Buffer.from(section.bytes, 'hex'))
      if (idstr === 'cpu') {
        const { codec, state } = load(tables.cpu, bytes, section.version)
        // Timer bits follow from the time, which is not part of this section.
        setTimer((state['env.mip'] & 0x80n) !== 0n)
        if (state['env.mip'] & 0x20n) hart.i32[WORD.mip] |= 0x20
        const out = bufferWriter()
        codec.save(state, out)
        expectBytes(out.bytes(), section)
        expect(withoutKeys(codec.describe(state, { style: name.startsWith('rv72') ? '7.2' : '10.0' }))).toEqual(
          withoutKeys(section.description),
        )
      } else {
        const { codec, state } = load(tables.cpu_common, bytes, section.version)
        const out = bufferWriter()
        codec.save(state, out)
        // halted; interrupt_request is computed.
        expect(hex(out.bytes()).slice(0, 8)).toBe(section.bytes.slice(0, 8))
        expect(withoutKeys(codec.describe(state))).toEqual(withoutKeys(section.description))
      }
    },
  )
})

/** Descriptions repeat keys for structs in an array; compare what both forms have. */
const withoutKeys = (description: unknown): unknown => JSON.parse(JSON.stringify(description))

describe('a hart that never ran', () => {
  it.each(['rv72-reset-default.json', 'rv100-reset-default.json'])('saves what stock saves at reset: %s', (name) => {
    const section = read(name).find((s) => s.idstr === 'cpu')!
    const { tables, setTimer } = hartFor(name, 0)
    // mtimecmp is 0 at power-on, so MTIP is pending (virt-machine.md section 6.1).
    setTimer(true)
    const out = bufferWriter()
    compileVmstate<any>(tables.cpu).save(tables.cpu.createState(), out)
    expectBytes(out.bytes(), section)
  })
})

describe('cpu', () => {
  const name = 'rv72-bm-bare.json'
  const section = read(name).find((s) => s.idstr === 'cpu')!
  const bytes = () => Uint8Array.from(Buffer.from(section.bytes, 'hex'))

  it('puts registers where the hart looks for them', () => {
    const { hart, tables } = hartFor(name, 0)
    load(tables.cpu, bytes(), 5)
    expect(hart.pc).toBe(0x80001eb6n)
    expect(hart.priv).toBe(1)
    expect(hart.csr('satp')).toBe(0x800000000008001en)
    expect(hart.csr('mstatus')).toBe(0xa000060a2n)
    expect(hart.csr('stimecmp')).toBe(0x13906fan)
    expect(hart.get(LAYOUT.frm32)).toBe(3n)
    expect(hart.get(LAYOUT.pmpaddr)).toBe(540803583n)
    expect(hart.u8[LAYOUT.pmpcfg + 15]).toBe(31)
  })

  it.each([
    ['env.priv', 724, 2],
    ['env.virt', 732, 1],
    ['env.mhartid', 748, 7],
    ['env.frm', 664, 8],
  ])('refuses %s that it cannot be', (row, offset, value) => {
    const { tables } = hartFor(name, 0)
    const wrong = bytes()
    wrong[offset + 7] = value
    expect(() => load(tables.cpu, wrong, 5)).toThrow(VmstateMismatchError)
    expect(() => load(tables.cpu, wrong, 5)).toThrow(row)
  })

  it('refuses a hart with the vector extension by name', () => {
    const { tables } = hartFor(name, 0)
    const wrong = bytes()
    wrong[708 + 1] |= 0x20
    expect(() => load(tables.cpu, wrong, 5)).toThrow(/env\.misa_ext.* V,/)
  })
})
