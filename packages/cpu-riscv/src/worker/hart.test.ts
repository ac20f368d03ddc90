import { afterEach, describe, expect, it } from 'vitest'
import { HART_AREA, PAGE_SLOT_BYTES } from '../hart/layout.ts'
import { encode } from '../isa/encode-testing.ts'
import { ACCELERATORS } from '../rv64.ts'
import { board, closeBoards, RAM_BASE } from './board-testing.ts'
import { PROGRAMS } from './hart-programs.ts'

afterEach(closeBoards)

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe.each(ACCELERATORS)('a hart in its thread (%s)', (accel) => {
  it('starts at the reset vector and does every MMIO access once', async () => {
    const b = await board(PROGRAMS.mmio, 1, accel)
    expect(b.cpu.readRegister(0, 'pc')).toBe(0x1000n)
    b.start()
    // After the loop it reads where nothing answers: a trap to address 0, where nothing can be fetched either.
    while (b.log.length < 100) await sleep(5)
    await sleep(20)
    await b.cpu.pause()
    expect(b.log).toEqual([...Array(100).keys()].map(BigInt))
    expect(b.cpu.readRegister(0, 'pc')).toBe(0n)
    expect(b.cpu.readRegister(0, 'mcause')).toBe(1n)
  })

  it('goes through M, S and U mode with paging, delegation and faults', async () => {
    const b = await board(PROGRAMS.modes, 1, accel)
    b.start()
    expect(await b.finished).toBe(3)
    expect(b.log).toEqual([
      8n,
      0n, // ecall from U
      13n,
      0xc0000010n, // load page fault
      15n,
      0xc0000010n, // store page fault
      2n,
      0x100025f3n, // csrr a1, sstatus in U
      8n,
      0n,
      3n,
      0n, // ebreak from S
    ])
  })

  it('sleeps in WFI until stimecmp, not before', async () => {
    const b = await board(PROGRAMS.timer, 1, accel)
    b.start()
    await b.finished
    expect(b.log.length).toBe(5)
    for (const ticks of b.log) expect(Number(ticks)).toBeGreaterThanOrEqual(2000)
  })

  it('runs code that it rewrites on its own page', async () => {
    const b = await board(PROGRAMS.smc, 1, accel)
    b.start()
    await b.finished
    expect(b.log).toEqual([BigInt([...Array(1000).keys()].reduce((sum, i) => sum + 100 + (i & 7), 0))])
  })

  it('runs code in RAM that was added when its thread was there already', async () => {
    const there = [
      encode('addi', { rd: 5, imm: 9 }),
      encode('slli', { rd: 5, rs1: 5, imm: 28 }),
      encode('jalr', { rs1: 5 }),
    ]
    const b = await board(there, 1, accel)
    const late = b.memory.addBlock('late', 1 << 20)
    b.map.addRam(0x9000_0000, late)
    new Uint32Array(late.bytes.buffer, late.offset, PROGRAMS.smc.length).set(PROGRAMS.smc)
    b.start()
    await b.finished
    expect(b.log.length).toBe(1)
    expect(b.failures).toEqual([])
  })

  it('two harts: atomics are atomic, and code written by one is run by the other', async () => {
    const b = await board(PROGRAMS.smp, 2, accel)
    b.start()
    await b.finished
    expect(b.log).toEqual([80_000n, ...[...Array(10).keys()].map(BigInt)])
  })
})

describe.each(ACCELERATORS)('the device thread (%s)', (accel) => {
  it('pauses and lets go on without losing an instruction', async () => {
    const b = await board(PROGRAMS.count, 1, accel)
    b.start()
    for (let i = 0; i < 20; i++) {
      await sleep(1)
      await b.cpu.pause()
      const before = b.cpu.instructionsRetired
      const counts = [...Array(64).keys()].map((page) => b.word(RAM_BASE + 0x10000 + page * 4096))
      // One pass over the pages is under way at most.
      expect(counts[0] - counts[63] === 0n || counts[0] - counts[63] === 1n).toBe(true)
      await sleep(1)
      expect(b.cpu.instructionsRetired).toBe(before)
      b.cpu.start()
    }
  })

  it('no write escapes the dirty log', async () => {
    const b = await board(PROGRAMS.count, 1, accel)
    b.start()
    await sleep(5)
    b.memory.dirtyLog.enabled = true
    await b.cpu.flushWriteTlb()
    const copy = new Uint8Array(b.ram.sizeBytes)
    copy.set(b.ram.bytes)
    for (let round = 0; round < 30; round++) {
      if (round === 29) await b.cpu.pause()
      const bitmap = new Int32Array(b.ram.sizeBytes / 4096 / 32)
      b.memory.dirtyLog.take(b.ram, bitmap)
      await b.cpu.flushWriteTlb()
      for (let page = 0; page < b.ram.sizeBytes / 4096; page++) {
        if (bitmap[page >> 5] & (1 << (page & 31)))
          copy.set(b.ram.bytes.subarray(page * 4096, page * 4096 + 4096), page * 4096)
      }
      await sleep(0)
    }
    expect(Buffer.compare(copy, b.ram.bytes)).toBe(0)
  })

  it('resets to the power-on state', async () => {
    const b = await board(PROGRAMS.count, 1, accel)
    b.start()
    await sleep(5)
    await b.cpu.pause()
    b.cpu.reset()
    expect(b.cpu.readRegister(0, 'pc')).toBe(0x1000n)
    expect(b.cpu.readRegister(0, 's0')).toBe(0n)
    const before = b.word(RAM_BASE + 0x10000)
    b.cpu.start()
    while (b.word(RAM_BASE + 0x10000) === before) await sleep(1)
    await b.cpu.pause()
    expect(b.word(RAM_BASE + 0x10000)).toBeGreaterThan(before)
  })

  it('sees a guest enter a virtualized mode as an error that says so', async () => {
    // li t0, 1 << 39; csrs mstatus, t0 (MPP = U after reset); mret
    const b = await board([0x00100293, 0x02729293, 0x3002a073, 0x30200073])
    b.start()
    while (b.failures.length === 0) await sleep(1)
    expect(b.failures[0]).toMatchObject({ code: 'FERRY_CPU_VIRTUALIZATION', hart: 0, pc: 0x8000_000cn })
  })

  it('hears of a hart whose thread fails', async () => {
    const b = await board(PROGRAMS.count)
    b.start()
    await sleep(20)
    await b.cpu.pause()
    // Decoded instructions that name a handler which does not exist.
    new Int32Array(b.memory.buffer, b.hartBase + HART_AREA.pool, (2 * PAGE_SLOT_BYTES) / 4).fill(0x7fff_ffff)
    b.cpu.start()
    while (b.failures.length === 0) await sleep(1)
    expect(b.failures[0]).toMatchObject({ code: 'FERRY_CPU_HART_CRASH', hart: 0 })
    // Nobody waits for it for ever.
    await b.cpu.pause()
    await b.cpu.flushWriteTlb()
  })

  it('registers cpu_common and cpu for each hart', async () => {
    const b = await board(PROGRAMS.count, 2)
    expect(b.sections.entries().map((e) => `${e.idstr}/${e.instanceId} v${e.version}`)).toEqual([
      'cpu_common/0 v1',
      'cpu/0 v5',
      'cpu_common/1 v1',
      'cpu/1 v5',
    ])
  })
})
