import { bufferReader, bufferWriter, type CharBackend, compileVmstate, drive } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { realizeAlone } from './realize-alone.ts'
import { uart16550, uart16550Vmstate } from './uart16550.ts'

const [DATA, IER, IIR, LCR, MCR, LSR, MSR] = [0, 1, 2, 3, 4, 5, 6]
const FCR = IIR

class Terminal implements CharBackend {
  sent = ''
  listener: ((bytes: Uint8Array) => void) | undefined
  readable = true
  /** Set: writes are slow until it is called. */
  release: (() => void) | undefined
  slow = false
  write(bytes: Uint8Array): void | Promise<void> {
    this.sent += Buffer.from(bytes).toString()
    if (this.slow) {
      return new Promise((resolve) => {
        this.release = resolve
      })
    }
  }
  onInput(listener: (bytes: Uint8Array) => void): Disposable {
    this.listener = listener
    return { [Symbol.dispose]: () => void (this.listener = undefined) }
  }
  setReadable(readable: boolean): void {
    this.readable = readable
  }
  type(text: string): void {
    this.listener!(Buffer.from(text))
  }
}

async function uart() {
  const terminal = new Terminal()
  const bench = await realizeAlone(uart16550({ chardev: terminal }, { at: 0, irq: 10 }))
  bench.device.reset!()
  const read = (register: number) => Number(bench.read(register, 1))
  const write = (register: number, value: number) => bench.write(register, value, 1)
  const save = () => {
    const out = bufferWriter()
    compileVmstate(uart16550Vmstate).save(bench.sections[0]!.device!.state, out)
    return out.bytes()
  }
  return { terminal, bench, read, write, save, high: () => bench.irqs.at(-1) === true }
}

// Spec: virt-machine.md section 6.3.
describe('uart16550', () => {
  it('has the registers that stock has after reset', async () => {
    const { read } = await uart()
    expect([IER, IIR, LCR, MCR, LSR, MSR].map(read)).toEqual([0, 1, 0, 8, 0x60, 0xb0])
  })

  it('sends, and interrupts when the holding register is empty', async () => {
    const { terminal, read, write, high } = await uart()
    write(DATA, 0x41)
    expect(terminal.sent).toBe('A')
    write(IER, 2)
    expect(high()).toBe(true)
    expect(read(IIR)).toBe(2)
    expect(read(IIR)).toBe(1)
    expect(high()).toBe(false)
    write(DATA, 0x42)
    expect(high()).toBe(true)
  })

  it('keeps the divisor apart from data', async () => {
    const { terminal, read, write } = await uart()
    write(LCR, 0x83)
    write(DATA, 3)
    write(IER, 1)
    expect([read(DATA), read(IER)]).toEqual([3, 1])
    write(LCR, 3)
    expect([read(DATA), read(IER), terminal.sent]).toEqual([0, 0, ''])
  })

  it('slows the guest down while the host is slow, and loses nothing', async () => {
    const { terminal, read, write } = await uart()
    terminal.slow = true
    write(FCR, 1)
    write(DATA, 0x61) // the backend took it and is now busy
    write(DATA, 0x62) // stands in the shift register
    expect(read(LSR) & 0x60).toBe(0x20)
    for (let i = 0; i < 16; i++) write(DATA, 0x63 + i)
    expect(read(LSR) & 0x60).toBe(0)
    for (let i = 0; i < 20; i++) {
      terminal.release?.()
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(terminal.sent).toBe('abcdefghijklmnopqr')
    expect(read(LSR) & 0x60).toBe(0x60)
  })

  it('gives unsent bytes to the destination', async () => {
    const source = await uart()
    source.terminal.slow = true
    source.write(FCR, 1)
    for (const c of Buffer.from('0123')) source.write(DATA, c)
    await source.bench.device.quiesce!()
    const bytes = source.save()
    source.terminal.release!() // the host has room again; the source must not go on sending
    await new Promise((resolve) => setImmediate(resolve))
    expect(source.terminal.sent).toBe('0')
    const target = await uart()
    const state = target.bench.sections[0]!.device!.state
    const input = bufferReader(Uint8Array.from([...bytes, 0x7e]))
    await drive(input, compileVmstate(uart16550Vmstate).load(state, input, 3))
    target.bench.device.resume!()
    expect(target.terminal.sent).toBe('123')
    expect(target.read(LSR) & 0x60).toBe(0x60)
  })

  it('goes on sending when a migration failed', async () => {
    const { terminal, bench, write } = await uart()
    terminal.slow = true
    for (const c of [0x30, 0x31]) write(DATA, c)
    await bench.device.quiesce!()
    terminal.slow = false
    terminal.release!()
    await new Promise((resolve) => setImmediate(resolve))
    bench.device.resume!()
    expect(terminal.sent).toBe('01')
  })

  it('outlives a backend that fails', async () => {
    const { terminal, write } = await uart()
    let failures = 0
    terminal.write = () => {
      failures++
      return failures === 1 ? Promise.reject(new Error('gone')) : undefined
    }
    write(DATA, 0x41)
    await new Promise((resolve) => setImmediate(resolve))
    write(DATA, 0x42)
    expect(failures).toBe(2)
  })

  it('receives through the FIFO at the trigger level, and reports overdue data below it', async () => {
    const { terminal, bench, read, write, high } = await uart()
    write(FCR, 0x81) // 8 bytes
    write(IER, 1)
    bench.clock.start()
    terminal.type('1234567')
    expect(high()).toBe(false)
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(high()).toBe(true)
    expect(read(IIR)).toBe(0xcc)
    expect(read(DATA)).toBe(0x31)
    expect(high()).toBe(false)
    terminal.type('89')
    expect(read(IIR)).toBe(0xc4)
    bench.clock.stop()
    bench.device.unrealize!()
  })

  it('keeps input for which there is no room, and says so to the host', async () => {
    const { terminal, read, write } = await uart()
    write(FCR, 1)
    const text = 'the quick brown fox jumps over the lazy dog'
    terminal.type(text)
    expect(terminal.readable).toBe(false)
    let got = ''
    while (read(LSR) & 1) got += String.fromCharCode(read(DATA))
    expect(got).toBe(text)
    expect(terminal.readable).toBe(true)
    expect(read(LSR) & 2).toBe(0)
  })

  it('takes one byte at a time while the FIFOs are off', async () => {
    const { terminal, read } = await uart()
    terminal.type('xy')
    expect([read(LSR) & 1, read(DATA), read(LSR) & 1, read(DATA), read(LSR) & 1]).toEqual([1, 0x78, 1, 0x79, 0])
  })

  it('loops back', async () => {
    const { terminal, read, write } = await uart()
    write(MCR, 0x1f)
    write(DATA, 0x5a)
    expect([read(DATA), terminal.sent, read(MSR)]).toEqual([0x5a, '', 0xf0])
  })

  it('drives its line again whenever an interrupt stays pending, for controllers that want an edge', async () => {
    const { terminal, bench, read, write } = await uart()
    write(FCR, 1)
    write(IER, 1)
    terminal.type('ab')
    const before = bench.irqs.length
    read(DATA)
    expect(bench.irqs.slice(before)).toContain(true)
  })

  it('refuses a FIFO that is not one', async () => {
    const { terminal, write, save, bench } = await uart()
    write(FCR, 1)
    terminal.type('a')
    const bytes = save()
    const at =
      bytes.length -
      1 -
      Buffer.from(bytes)
        .reverse()
        .indexOf(Buffer.from([0, 0, 0, 1]))
    expect(at).toBeGreaterThan(0)
    for (let i = 0; i < bytes.length - 3; i++) {
      if (bytes[i] === 0 && bytes[i + 1] === 0 && bytes[i + 2] === 0 && bytes[i + 3] === 1) bytes[i + 3] = 17
    }
    const input = bufferReader(Uint8Array.from([...bytes, 0x7e]))
    const load = async () =>
      drive(input, compileVmstate(uart16550Vmstate).load(bench.sections[0]!.device!.state, input, 3))
    await expect(load()).rejects.toThrow(/17|FIFO|version/)
  })
})
