import { readFileSync } from 'node:fs'
import { bufferReader, bufferWriter, compileVmstate, drive, VmstateMismatchError } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { HartState, WORD } from '../hart/hart-state.ts'
import { hartAreaBytes } from '../hart/layout.ts'
import { PROFILES, type ProfileName } from '../hart/profile.ts'
import { resetHart } from '../hart/reset.ts'
import { cpuVmstate } from './cpu-vmstate.ts'
import { otherCpuVmstate } from './other-release.ts'
import type { ToldIsa } from './told-isa.ts'

/** The `cpu` section of a running guest, as stock QEMU wrote it. */
function stockSection(release: '72' | '100'): Uint8Array {
  const file = new URL(`./__fixtures__/rv${release}-bm-bare.json`, import.meta.url)
  const sections: { idstr: string; bytes: string }[] = JSON.parse(readFileSync(file, 'utf8'))
  return Uint8Array.from(Buffer.from(sections.find((s) => s.idstr === 'cpu')!.bytes, 'hex'))
}

function hartOf(profileName: ProfileName, told?: ToldIsa) {
  const profile = PROFILES[profileName]
  const hart = new HartState(new SharedArrayBuffer(hartAreaBytes(0)), 0, 0)
  resetHart(hart, profile)
  const parts = { hart, profile, pending: () => hart.i32[WORD.mip], loaded: () => {}, told: () => told }
  const own = cpuVmstate(parts)
  const state = own.createState()
  const other = otherCpuVmstate(parts, state)
  return {
    hart,
    state,
    load: (bytes: Uint8Array, version: number) => {
      const vmstate = version === own.version ? own : other
      const input = bufferReader(bytes)
      const into = version === own.version ? state : other.createState()
      drive(input, compileVmstate<any>(vmstate).load(into, input, version))
      expect(input.available).toBe(0)
    },
    save: () => {
      const out = bufferWriter()
      compileVmstate<any>(own).save(state, out)
      return out.bytes()
    },
  }
}
const put64 = (bytes: Uint8Array, at: number, value: bigint) =>
  new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(at, value)
const placeOf = (bytes: Uint8Array, idstr: string) => Buffer.from(bytes).indexOf(idstr) + idstr.length + 4

// Spec: virt-vmstate.md section 4, "Converting between v5 and v10".
describe('the cpu section of the other release', () => {
  it('of 7.2 becomes that of 10.0, with what 10.0 requires', () => {
    const there = hartOf('qemu-7.2')
    there.load(stockSection('72'), 5)
    const here = hartOf('qemu-10.0')
    here.load(stockSection('72'), 5)
    for (const name of ['satp', 'sepc', 'mstatus', 'stimecmp', 'mtvec', 'medeleg'] as const) {
      expect(here.hart.csr(name), name).toBe(there.hart.csr(name))
    }
    expect(here.hart.pc).toBe(there.hart.pc)
    expect(here.hart.csr('mideleg') & 0x1444n).toBe(0x1444n)
    expect(here.hart.csr('menvcfg') >> 61n, 'ADUE: it always updated A and D').toBe(
      (there.hart.csr('menvcfg') >> 61n) | 1n,
    )
    const sent = here.save()
    expect(sent.length).toBe(stockSection('100').length)
    const again = hartOf('qemu-10.0')
    again.load(sent, 10)
    expect(again.state['env.priv_ver']).toBe(3n)
    expect(again.hart.pc).toBe(there.hart.pc)
  })

  it('of 10.0 becomes that of 7.2 and back, register for register', () => {
    const home = hartOf('qemu-10.0')
    home.load(stockSection('100'), 10)
    const away = hartOf('qemu-7.2')
    away.load(stockSection('100'), 10)
    const sent = away.save()
    expect(sent.length).toBe(stockSection('72').length)
    const back = hartOf('qemu-10.0')
    back.load(sent, 5)
    expect([...back.hart.u64.subarray(0, 64)]).toEqual([...home.hart.u64.subarray(0, 64)])
    for (const row of ['env.miprio', 'env.hviprio', 'env.mhpmevent_val', 'env.tdata1']) {
      expect(back.state[row], row).toEqual(home.state[row])
    }
  })

  it('keeps counter enables that 7.2 wrote with 64 bits', () => {
    const bytes = stockSection('72')
    put64(bytes, 892, 0xffff_ffff_ffff_ffffn) // scounteren
    put64(bytes, 900, 0xffff_ffff_ffff_ffffn) // mcounteren
    const here = hartOf('qemu-10.0')
    here.load(bytes, 5)
    here.save()
    expect(here.state['env.scounteren']).toBe(0xffff_ffff)
    expect(here.state['env.mcounteren']).toBe(0x7_ffff)
  })
})

describe('a guest that depends on more than this hart has', () => {
  const isa = (text: string, at?: number): ToldIsa => ({ isa: text, find: () => at })
  /** menvcfg.CBZE */
  const zicbozInUse = () => {
    const bytes = stockSection('100')
    const at = placeOf(bytes, 'cpu/envcfg')
    put64(bytes, at, new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at) | 0x80n)
    return bytes
  }

  it('is refused by the CSR bit and the instruction', () => {
    const { load } = hartOf('qemu-7.2', isa('rv64imafdch_zicboz'))
    expect(() => load(zicbozInUse(), 10)).toThrow(VmstateMismatchError)
    expect(() => load(zicbozInUse(), 10)).toThrow('menvcfg.CBZE is set: zicboz (cbo.zero)')
  })

  it('is refused by the bit alone when nobody knows what it was told', () => {
    expect(() => hartOf('qemu-7.2').load(zicbozInUse(), 10)).toThrow('zicboz')
  })

  it('is taken in when firmware set a bit for an extension that the guest was never told of', () => {
    hartOf('qemu-7.2', isa('rv64imafdch_zicsr')).load(zicbozInUse(), 10)
  })

  it('is taken in by a hart that has the extension', () => {
    hartOf('qemu-10.0', isa('rv64imafdch_zicboz')).load(zicbozInUse(), 10)
  })

  it('is refused by the code that uses an extension without a CSR bit', () => {
    const { load } = hartOf('qemu-7.2', isa('rv64imafdch_zawrs', 0x8020_1000))
    expect(() => load(stockSection('100'), 10)).toThrow(/zawrs .*wrs\.nto or wrs\.sto at 0x80201000/)
    hartOf('qemu-7.2', isa('rv64imafdch_zawrs')).load(stockSection('100'), 10)
    hartOf('qemu-7.2', isa('rv64imafdch', 0x8020_1000)).load(stockSection('100'), 10)
  })
})
