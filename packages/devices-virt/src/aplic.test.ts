import { bufferReader, bufferWriter, drive } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { aplic, aplicVmstate } from './aplic.ts'
import { realizeAlone } from './realize-alone.ts'

const [M, S] = [0xc00_0000, 0xd00_0000]
const [MEIP, SEIP] = [1 << 11, 1 << 9]
const IE = 1 << 8
const DELEGATE = 1 << 10
const MODE = { edgeRise: 4, edgeFall: 5, levelHigh: 6, levelLow: 7 }
const sourcecfg = (base: number, source: number) => base + 4 * source
const target = (base: number, source: number) => base + 0x3000 + 4 * source
const idc = (base: number, hart: number) => base + 0x4000 + 32 * hart
const SETIENUM = 0x1edc
const RAM = 0x8000_0000

async function controller(options: { messages?: boolean; version?: 1 | 2; harts?: number } = {}) {
  const { messages = false, version, harts = 2 } = options
  const bench = await realizeAlone(aplic({ supervisorAt: S, messages, version }, { at: M }), {
    harts,
    ram: { base: RAM, sizeBytes: 1 << 20 },
  })
  bench.device.reset!()
  const give = (source: number, mode: number, to: number) => {
    bench.write(sourcecfg(M, source), DELEGATE)
    bench.write(sourcecfg(S, source), mode)
    bench.write(target(S, source), to)
    bench.write(S + SETIENUM, source)
  }
  return { ...bench, harts: bench.harts, give, mip: () => bench.harts.map((hart) => hart.mip) }
}

/** Harts' interrupt files at both levels, all in RAM: what was sent where. */
function withMemory(bench: Awaited<ReturnType<typeof controller>>) {
  bench.write(M + 0x1bc0, RAM >>> 12)
  bench.write(M + 0x1bc4, 1 << 12) // LHXW = 1: two harts
  bench.write(M + 0x1bc8, (RAM >>> 12) + 0x10)
  bench.write(M + 0x1bcc, 2 << 20) // LHXS = 2: room for three guests
  bench.write(M, IE)
  bench.write(S, IE)
  return (page: number) => {
    const word = new Uint8Array(4)
    bench.physical.read(RAM + page * 4096, word)
    return new DataView(word.buffer).getUint32(0, true)
  }
}

// Spec: RISC-V AIA 1.0, chapter "Advanced Platform-Level Interrupt Controller (APLIC)".
describe('aplic with wires to the harts', () => {
  it('follows a level until the wire falls, and delivers where domain, hart and source are on', async () => {
    const bench = await controller()
    bench.give(10, MODE.levelHigh, (1 << 18) | 3)
    bench.line(10).set(true)
    expect(bench.mip()).toEqual([0, 0])
    bench.write(S, IE)
    bench.write(idc(S, 1), 1)
    expect(bench.mip()).toEqual([0, SEIP])
    expect(bench.read(idc(S, 1) + 0x1c)).toBe((10n << 16n) | 3n)
    expect(bench.mip()).toEqual([0, SEIP])
    bench.line(10).set(false)
    expect(bench.mip()).toEqual([0, 0])
    expect(bench.read(idc(S, 1) + 0x1c)).toBe(0n)
  })

  it('remembers an edge until it is claimed', async () => {
    const bench = await controller()
    // A wire that has fallen already counts when the source is configured.
    bench.line(96).set(true)
    bench.write(sourcecfg(M, 96), MODE.edgeFall)
    bench.write(M + SETIENUM, 96)
    bench.write(M, IE)
    bench.write(idc(M, 0), 1)
    expect(bench.mip()).toEqual([0, 0])
    bench.line(96).set(false)
    bench.line(96).set(true)
    expect(bench.mip()).toEqual([MEIP, 0])
    expect(bench.read(idc(M, 0) + 0x1c)).toBe((96n << 16n) | 1n)
    expect(bench.mip()).toEqual([0, 0])
  })

  it('prefers low numbers, of priority and then of source, below the threshold', async () => {
    const bench = await controller()
    for (const [source, priority] of [
      [3, 5],
      [40, 2],
      [33, 2],
    ] as const) {
      bench.give(source, MODE.edgeRise, priority)
      bench.line(source).set(true)
    }
    bench.write(idc(S, 0) + 8, 5)
    const claims = Array.from({ length: 3 }, () => Number(bench.read(idc(S, 0) + 0x1c)! >> 16n))
    expect(claims).toEqual([33, 40, 0])
    bench.write(idc(S, 0) + 8, 0)
    expect(bench.read(idc(S, 0) + 0x18)).toBe((3n << 16n) | 5n)
  })

  it('shows a domain only the sources that it has', async () => {
    const bench = await controller()
    bench.write(sourcecfg(S, 10), MODE.levelHigh)
    expect(bench.read(sourcecfg(S, 10))).toBe(0n)
    bench.give(10, MODE.levelLow, 1)
    expect(bench.read(sourcecfg(S, 10))).toBe(BigInt(MODE.levelLow))
    expect(bench.read(S + 0x1d00)).toBe(1n << 10n)
    expect(bench.read(M + 0x1d00)).toBe(0n)
    bench.write(M + SETIENUM, 10)
    expect([bench.read(M + 0x1e00), bench.read(S + 0x1e00)]).toEqual([0n, 1n << 10n])
    bench.write(sourcecfg(M, 10), 0)
    expect(bench.read(S + 0x1e00)).toBe(0n)
  })

  it('interrupts a hart because software says so, once', async () => {
    const bench = await controller()
    bench.write(S, IE)
    bench.write(idc(S, 0), 1)
    bench.write(idc(S, 0) + 4, 1)
    expect(bench.mip()).toEqual([SEIP, 0])
    expect(bench.read(idc(S, 0) + 0x1c)).toBe(0n)
    expect(bench.mip()).toEqual([0, 0])
  })
})

describe('aplic with messages', () => {
  it('sends the identity to the file of hart and guest, and is done with it', async () => {
    const bench = await controller({ messages: true })
    const at = withMemory(bench)
    bench.give(10, MODE.levelHigh, (1 << 18) | (2 << 12) | 77)
    bench.line(10).set(true)
    expect(at(0x10 + 4 + 2)).toBe(77)
    expect(bench.read(S + 0x1c00)).toBe(0n)
    expect(bench.mip()).toEqual([0, 0])
  })

  it('sends again for a wire that still asks only when software says so', async () => {
    const bench = await controller({ messages: true })
    const at = withMemory(bench)
    bench.give(10, MODE.levelHigh, 5)
    bench.line(10).set(true)
    expect(at(0x10)).toBe(5)
    bench.physical.write(RAM + 0x1_0000, new Uint8Array(4))
    bench.line(10).set(true)
    expect(at(0x10)).toBe(0)
    bench.write(S + 0x2000, 10)
    expect(at(0x10)).toBe(5)
    bench.physical.write(RAM + 0x1_0000, new Uint8Array(4))
    bench.line(10).set(false)
    bench.write(S + 0x2000, 10)
    expect(at(0x10)).toBe(0)
  })

  it('sends what software asks for, from machine level to hart 1', async () => {
    const bench = await controller({ messages: true })
    const at = withMemory(bench)
    bench.write(M + 0x3000, (1 << 18) | 9)
    expect(at(1)).toBe(9)
    expect(bench.read(M + 0x3000)).toBe((1n << 18n) | 9n)
  })

  it('keeps its addresses once they are locked, and shows them to machine level only', async () => {
    const bench = await controller({ messages: true })
    bench.write(M + 0x1bc0, 0x24000)
    bench.write(M + 0x1bc4, 0x8000_1000)
    bench.write(M + 0x1bc0, 1)
    expect(bench.read(M + 0x1bc0)).toBe(0x24000n)
    expect(bench.read(S + 0x1bc0)).toBe(0n)
  })

  it('says what happens to a message that nothing takes', async () => {
    const bench = await controller({ messages: true })
    bench.write(M + 0x3000, 9)
    expect(bench.guestErrors).toEqual(['aplic: nothing takes the message'])
  })
})

describe('sections', () => {
  const save = (bench: Awaited<ReturnType<typeof controller>>, index: number) => {
    const { codec, state } = bench.sections[index]!.device!
    const out = bufferWriter()
    codec.save(state, out)
    return out.bytes()
  }
  const load = async (
    bench: Awaited<ReturnType<typeof controller>>,
    index: number,
    bytes: Uint8Array,
    version: number,
  ) => {
    const { codec, state } = bench.sections[index]!.device!.layout(version)!
    const input = bufferReader(bytes)
    await drive(input, codec.load(state, input, version))
  }

  it('have the lengths of both releases', async () => {
    for (const [version, messages, bytes] of [
      [1, true, 1188],
      [2, true, 1196],
      [1, false, 1188 + 24],
      [2, false, 1196 + 24],
    ] as const) {
      const bench = await controller({ version, messages })
      expect(bench.sections.map(({ idstr, instanceId }) => `${idstr}/${instanceId}`)).toEqual([
        'riscv_aplic/0',
        'riscv_aplic/1',
      ])
      expect(save(bench, 1).length).toBe(bytes)
      expect(aplicVmstate(messages ? 0 : 2, version).version).toBe(version)
    }
  })

  it('take nothing from sources that are off, where 7.2 sends what was in its memory', async () => {
    const bench = await controller()
    const bytes = save(bench, 1)
    const STATE = 4 * (8 + 97)
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(STATE, 0xf44257e3)
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(STATE + 4, 0x2207)
    await load(bench, 1, bytes, 2)
    expect([...save(bench, 1).subarray(STATE, STATE + 8)]).toEqual(Array(8).fill(0))
    bench.write(sourcecfg(M, 1), DELEGATE)
    expect([bench.read(S + 0x1c00), bench.read(S + 0x1e00)]).toEqual([0n, 0n])
  })

  for (const [from, to] of [
    [1, 2],
    [2, 1],
  ] as const) {
    it(`go from version ${from} to ${to}, with the levels of the wires`, async () => {
      const bench = await controller({ version: from })
      bench.give(10, MODE.levelHigh, 1)
      bench.line(10).set(true)
      const there = await controller({ version: to })
      await load(there, 0, save(bench, 0), from)
      await load(there, 1, save(bench, 1), from)
      there.device.resume!()
      there.write(S, IE)
      there.write(idc(S, 0), 1)
      expect(there.mip()).toEqual([SEIP, 0])
      expect(there.read(S + 0x1d00)).toBe(1n << 10n)
      there.line(10).set(false)
      expect(there.mip()).toEqual([0, 0])
    })
  }
})
