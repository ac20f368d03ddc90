import {
  bool,
  buffer,
  custom,
  defineVmstate,
  list,
  struct,
  structVarray,
  timer,
  u8,
  u16,
  u32,
  u64Array,
} from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { vmstateCompliance } from './index.ts'

const fifo = defineVmstate({ name: 'fifo', version: 1, fields: { data: buffer(16), num: u8() } })
const request = defineVmstate({ name: 'request', version: 1, fields: { sector: u32(), write: bool() } })

vmstateCompliance(
  { describe, it },
  {
    vmstate: defineVmstate({
      name: 'sample',
      version: 3,
      minimumVersion: 2,
      fields: {
        divider: u16({ since: 2, reset: 12 }),
        regs: u64Array(32),
        count: u8({ since: 3 }),
        requests: structVarray(request, 'count'),
        queue: list(request, { since: 1 }),
      },
      subsections: {
        'sample/fifo': { fields: { fifo: struct(fifo) }, needed: (s) => s.fifo.num > 0 },
        'sample/timeout': { fields: { timeout: timer() }, needed: (s) => s.timeout.expireNs >= 0n },
      },
    }),
    mutate(s) {
      s.regs.set([1n, 2n, 3n])
      s.count = 2
      s.requests = [
        { sector: 1, write: true },
        { sector: 2, write: false },
      ]
      s.queue.push({ sector: 3, write: true })
      s.fifo.num = 3
      s.timeout.expireNs = 5n
    },
    streams: [{ name: 'sample.v3.bin', version: 3, bytes: new Uint8Array(2 + 256 + 1 + 1) }],
  },
)

/** The kit's own cases, run without a test runner. */
function collect(run: (runner: { describe: any; it: any }) => void): Map<string, () => Promise<void>> {
  const cases = new Map<string, () => Promise<void>>()
  run({
    describe: (_: string, body: () => void) => body(),
    it: (name: string, body: any) => cases.set(name, async () => body()),
  })
  return cases
}

describe('the kit finds', () => {
  const broken = (put: (value: number, out: any) => void, mutate = (s: { x: number }) => void (s.x = 5)) =>
    collect((runner) =>
      vmstateCompliance(runner, {
        vmstate: defineVmstate({
          name: 'broken',
          version: 1,
          fields: {
            x: custom<number>({
              wire: 'x',
              reset: () => 0,
              put,
              *get(input) {
                if (input.available < 1) yield 1
                return input.getByte()
              },
            }),
          },
        }),
        mutate,
      }),
    )

  it('a mutate that changes nothing', async () => {
    const cases = broken(
      (v, out) => out.putByte(v),
      () => {},
    )
    await expect(cases.get('mutate changes the saved bytes (otherwise nothing below is tested)')!()).rejects.toThrow(
      'the bytes differ',
    )
  })

  it('a row that writes what it does not read', async () => {
    const cases = broken((v, out) => out.putBe16(v))
    await expect(cases.get('what was saved is brought back, and every byte is used')!()).rejects.toThrow(
      'no byte is left over',
    )
  })

  it('a row that loses its value', async () => {
    const cases = broken((v, out) => out.putByte(v + 1))
    await expect(cases.get('what was saved is brought back, and every byte is used')!()).rejects.toThrow(
      'byte 0 is 0x7, expected 0x6',
    )
  })
})
