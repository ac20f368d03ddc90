import { DeviceConfigError } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { planBoot } from './boot-plan.ts'
import { loadImage } from './elf.ts'

const MiB = 2 ** 20
const file = (bytes: number) => new Uint8Array(bytes)

/** A minimal RV64 ELF file with one segment. */
function elf(at: number, entry: number, payload: Uint8Array, memoryBytes = payload.length): Uint8Array {
  const bytes = new Uint8Array(64 + 56 + payload.length)
  const view = new DataView(bytes.buffer)
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  view.setUint16(18, 243, true)
  view.setBigUint64(24, BigInt(entry), true)
  view.setBigUint64(32, 64n, true)
  view.setUint16(54, 56, true)
  view.setUint16(56, 1, true)
  view.setUint32(64, 1, true)
  view.setBigUint64(72, 120n, true)
  view.setBigUint64(88, BigInt(at), true)
  view.setBigUint64(96, BigInt(payload.length), true)
  view.setBigUint64(104, BigInt(memoryBytes), true)
  bytes.set(payload, 120)
  return bytes
}

describe('boot plan (virt-machine.md section 4)', () => {
  it('puts a raw kernel behind the firmware at the next 2 MiB', () => {
    const plan = planBoot({ bios: file(300_000), kernel: file(1000) }, 128 * MiB, 'qemu-7.2')
    expect(plan.start).toBe(0x8000_0000)
    expect(plan.next).toBe(0x8020_0000)
  })

  it('starts a kernel without firmware at the start of RAM', () => {
    const plan = planBoot({ kernel: file(1000) }, 128 * MiB, 'qemu-7.2')
    expect([plan.start, plan.next]).toEqual([0x8000_0000, 0x8000_0000])
  })

  it('places tree and initrd as the specification says for 128 MiB and 16 MiB', () => {
    const plan = planBoot({ bios: file(300_000), kernel: file(1000), initrd: file(5000) }, 128 * MiB, 'qemu-7.2')
    expect(plan.initrd).toEqual({ start: 0x8420_0000, end: 0x8420_0000 + 5000 })
    expect(plan.deviceTreeAt(5000)).toBe(0x87e0_0000)
    expect(planBoot({}, 16 * MiB, 'qemu-10.0').deviceTreeAt(5000)).toBe(0x80e0_0000)
  })

  it('takes the lowest load address of an ELF kernel, not its entry', () => {
    const plan = planBoot({ bios: file(10), kernel: elf(0x8040_0000, 0x8040_0100, file(64)) }, 128 * MiB, 'qemu-7.2')
    expect(plan.next).toBe(0x8040_0000)
  })

  it('reads of a file that is not held only what it needs, when it needs it', () => {
    const bytes = elf(
      0x8040_0000,
      0x8040_0100,
      Uint8Array.from({ length: 64 }, (_, i) => i),
      100,
    )
    const reads: number[][] = []
    const kernel = {
      sizeBytes: bytes.length,
      read(offset: number, target: Uint8Array) {
        reads.push([offset, target.length])
        target.set(bytes.subarray(offset, offset + target.length))
      },
    }
    const { segments, ...rest } = loadImage('-kernel', kernel, 0)
    expect(reads).toEqual([
      [0, 64],
      [64, 56],
    ])
    expect(rest).toEqual({ start: 0x8040_0000, end: 0x8040_0000 + 100, entry: 0x8040_0100 })
    const target = new Uint8Array(100).fill(0xff)
    segments[0].source.readInto(target)
    expect(reads.at(-1)).toEqual([120, 64])
    expect([...target]).toEqual([...Array(64).keys(), ...Array(36).fill(0)])
  })

  it('starts an ELF firmware at its entry only on 10.0', () => {
    const bios = elf(0x8000_0000, 0x8000_0040, file(64))
    expect(planBoot({ bios }, 128 * MiB, 'qemu-7.2').start).toBe(0x8000_0000)
    expect(planBoot({ bios }, 128 * MiB, 'qemu-10.0').start).toBe(0x8000_0040)
  })

  it('refuses what does not fit, what has no kernel, and foreign or broken ELF files, in words', () => {
    const refused = (run: () => unknown) => {
      try {
        run()
      } catch (e) {
        expect(e).toBeInstanceOf(DeviceConfigError)
        return (e as Error).message
      }
      throw new Error('it was accepted')
    }
    expect(refused(() => planBoot({ kernel: file(32 * MiB) }, 16 * MiB, 'qemu-7.2'))).toMatch(
      /RAM is 0x80000000 to 0x81000000/,
    )
    expect(refused(() => planBoot({ append: 'quiet' }, 16 * MiB, 'qemu-7.2'))).toBe('-append: needs -kernel')
    const tight = planBoot({ kernel: file(15 * MiB + 100) }, 16 * MiB, 'qemu-7.2')
    expect(refused(() => tight.deviceTreeAt(5000))).toMatch(/device tree .* would overlap/)
    const other = elf(0x8000_0000, 0, file(8))
    new DataView(other.buffer).setUint16(18, 62, true)
    expect(refused(() => loadImage('-kernel', other, 0))).toMatch(/not for little-endian RV64/)
    const cut = elf(0x8000_0000, 0, file(64)).subarray(0, 150)
    expect(refused(() => loadImage('-kernel', cut, 0))).toMatch(
      /program header 0 wants 64 bytes at offset 120 of a file of 150/,
    )
    const huge = elf(0x8000_0000, 0, file(8), 2 ** 40)
    expect(refused(() => loadImage('-kernel', huge, 0))).toMatch(/memory size/)
  })
})
