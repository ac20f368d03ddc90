import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bufferWriter } from '../qemufile/qemufile-writer.ts'
import { compileVmstate, type VmstateCodec } from './codec.ts'
import { defineVmstate } from './define-vmstate.ts'
import { emitVmstateModule } from './generated-codec.ts'
import { randomCase } from './random-table-testing.ts'
import { u8, u16 } from './scalar-rows.ts'
import { hex, loadSlowly, loadWith, saveWith } from './vmstate-testing.ts'

/** What a load says, in words that both engines must agree on. */
async function outcome(codec: VmstateCodec<any>, state: any, bytes: Uint8Array, version: number): Promise<unknown> {
  try {
    await loadSlowly(codec, state, bytes, version, 7)
    return 'loaded'
  } catch (error) {
    return String(error)
  }
}

describe('the interpreter and generated code', () => {
  it('write the same bytes, bring the same state back, and describe what was written', () => {
    fc.assert(
      fc.property(randomCase, ({ vmstate, state, fresh }) => {
        const interpreted = compileVmstate(vmstate, { engine: 'interpreted' })
        const generated = compileVmstate(vmstate)
        expect(generated.engine).toBe('generated')
        const bytes = saveWith(interpreted, state)
        expect(hex(saveWith(generated, state))).toBe(hex(bytes))

        const one = fresh()
        const other = fresh()
        expect(loadWith(interpreted, one, bytes, 2)).toBe(0)
        expect(loadWith(generated, other, bytes, 2)).toBe(0)
        expect(other).toEqual(one)
        expect(hex(saveWith(generated, other))).toBe(hex(bytes))

        const out = bufferWriter()
        const description = interpreted.describe(state, { out })
        expect(hex(out.bytes())).toBe(hex(bytes))
        expect(description).toMatchObject({ vmsd_name: 'outer', version: 2 })
      }),
      { numRuns: 150 },
    )
  })

  it('say the same of every truncation, of older versions, and of flipped bits', async () => {
    await fc.assert(
      fc.asyncProperty(randomCase, fc.nat(), fc.nat(7), async ({ vmstate, state, fresh }, at, bit) => {
        const interpreted = compileVmstate(vmstate, { engine: 'interpreted' })
        const generated = compileVmstate(vmstate)
        const bytes = saveWith(interpreted, state)
        const cut = bytes.subarray(0, at % (bytes.length + 1))
        for (const version of [0, 1, 2, 3]) {
          const said = await outcome(interpreted, fresh(), cut, version)
          expect(await outcome(generated, fresh(), cut, version)).toBe(said)
        }
        const flipped = bytes.slice()
        flipped[at % bytes.length]! ^= 1 << bit
        const said = await outcome(interpreted, fresh(), flipped, 2)
        expect(await outcome(generated, fresh(), flipped, 2)).toBe(said)
      }),
      { numRuns: 100 },
    )
  })

  it('the emitted module does what the generated code does, and is refused by another table', async () => {
    const vmstate = defineVmstate({
      name: 'emitted',
      version: 1,
      fields: { 'env.pc': u16(), 'a-b': u8({ when: (s) => s['env.pc'] > 1 }) },
    })
    const source = emitVmstateModule(vmstate)
    const module = await import(`data:text/javascript,${encodeURIComponent(source)}`)
    const codec = compileVmstate(vmstate, { module })
    expect(codec.engine).toBe('emitted')
    const state = { 'env.pc': 0x1234, 'a-b': 0x56 }
    expect(hex(saveWith(codec, state))).toBe('123456')
    const loaded = vmstate.createState()
    loadWith(codec, loaded, saveWith(codec, state), 1)
    expect(loaded).toEqual(state)
    const other = defineVmstate({ name: 'emitted', version: 1, fields: { 'env.pc': u16() } })
    expect(() => compileVmstate(other, { module })).toThrow('emit it again')
  })

  it('a page that forbids eval gets the interpreter', async () => {
    const { execFileSync } = await import('node:child_process')
    const script = `
      import { compileVmstate, defineVmstate, u8 } from '${new URL('../index.ts', import.meta.url)}'
      console.log(compileVmstate(defineVmstate({ name: 'x', version: 1, fields: { a: u8() } })).engine)`
    const args = ['--disallow-code-generation-from-strings', '--input-type=module', '-e', script]
    expect(execFileSync(process.execPath, args, { encoding: 'utf8' }).trim()).toBe('interpreted')
  })
})
