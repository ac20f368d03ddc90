import { readFileSync } from 'node:fs'
import { bufferReader, bufferWriter, compileVmstate, drive, formatSection, type Vmstate } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { mtimerVmstate } from './aclint.ts'
import { aplicVmstate } from './aplic.ts'
import { fwCfgVmstate } from './fw-cfg.ts'
import { goldfishRtcVmstate } from './goldfish-rtc.ts'
import { imsicVmstate } from './imsic.ts'
import { pflashCfi01Vmstate } from './pflash-cfi01.ts'
import { plicVmstate } from './plic.ts'
import { uart16550Vmstate } from './uart16550.ts'

interface StockSection {
  idstr: string
  stream: string
  version: number
  body: string
  description: { name: string; instance_id: number; fields: { name: string; array_len?: number }[] }
}
const sections = ['stock-sections', 'aia-sections'].flatMap((name): StockSection[] => {
  const file = new URL(`./__fixtures__/${name}.json`, import.meta.url)
  return JSON.parse(readFileSync(file, 'utf8')).sections
})

const vmstateFor = ({ idstr, version, body, description }: StockSection): Vmstate<any> => {
  const field = (name: string) => description.fields.find((f) => f.name === name)
  const count = (name: string): number => field(name)?.array_len ?? 1
  switch (idstr) {
    case 'serial':
      return uart16550Vmstate
    case 'riscv_mtimer':
      return mtimerVmstate(body.length / 16)
    case 'riscv_sifive_plic':
      return plicVmstate(count('target_priority'))
    case 'riscv_imsic':
      return imsicVmstate(count('eidelivery'))
    case 'riscv_aplic':
      return aplicVmstate(field('idelivery') ? count('idelivery') : 0, version === 1 ? 1 : 2)
    case 'goldfish_rtc':
      return goldfishRtcVmstate
    case 'pflash_cfi01':
      return pflashCfi01Vmstate
    default:
      return fwCfgVmstate
  }
}

// Spec: virt-vmstate.md sections 5, 6, 10 to 13.
describe.each(sections)('$idstr as $stream sent it', (section) => {
  const vmstate = vmstateFor(section)
  const codec = compileVmstate(vmstate)
  const load = async () => {
    const state = vmstate.createState()
    // The sections end with a footer, at which the search for subsections stops.
    const input = bufferReader(Uint8Array.from([...Buffer.from(section.body, 'hex'), 0x7e]))
    await drive(input, codec.load(state, input, section.version))
    expect(input.available).toBe(1)
    return state
  }

  it('has our version', () => expect(section.version).toBe(vmstate.version))

  it('loads, and is saved again byte for byte', async () => {
    const out = bufferWriter()
    codec.save(await load(), out)
    expect(Buffer.from(out.bytes()).toString('hex')).toBe(section.body)
  })

  it('is described by us as by the sender', async () => {
    const style = section.stream.startsWith('rv72') ? '7.2' : '10.0'
    const { name, instance_id: instanceId } = section.description
    const ours = formatSection({ name, instanceId, vmstate: codec.describe(await load(), { style }) })
    expect(JSON.parse(ours)).toEqual(section.description)
  })
})
