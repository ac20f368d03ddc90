import { VmstateRangeError } from '../errors/vmstate-error.ts'
import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import type { ScalarType } from './row.ts'

/** One fixed-size value. Spec: vmstate.md section 7. */
export interface Scalar {
  readonly wire: string
  readonly bytes: 1 | 2 | 4 | 8
  readonly zero: boolean | number | bigint
  /** Typed array that holds many of them; undefined: a JavaScript array. */
  readonly typed?: { new (length: number): any }
  put(value: any, out: QEMUFileWriter): void
  take(input: QEMUFileReader): any
}

const TWO_32 = 2 ** 32
const outOf53 = (text: string) => new VmstateRangeError('', `${text} does not fit 53 bits`)

/** Values beyond the width are cut to it, as storing them in a register of that width would. */
export const scalars: Readonly<Record<ScalarType, Scalar>> = {
  bool: { wire: 'bool', bytes: 1, zero: false, put: (v, o) => o.putByte(v ? 1 : 0), take: (i) => i.getByte() !== 0 },
  u8: { wire: 'uint8', bytes: 1, zero: 0, typed: Uint8Array, put: (v, o) => o.putByte(v), take: (i) => i.getByte() },
  u16: { wire: 'uint16', bytes: 2, zero: 0, typed: Uint16Array, put: (v, o) => o.putBe16(v), take: (i) => i.getBe16() },
  u32: { wire: 'uint32', bytes: 4, zero: 0, typed: Uint32Array, put: (v, o) => o.putBe32(v), take: (i) => i.getBe32() },
  i8: {
    wire: 'int8',
    bytes: 1,
    zero: 0,
    typed: Int8Array,
    put: (v, o) => o.putByte(v),
    take: (i) => (i.getByte() << 24) >> 24,
  },
  i16: {
    wire: 'int16',
    bytes: 2,
    zero: 0,
    typed: Int16Array,
    put: (v, o) => o.putBe16(v),
    take: (i) => (i.getBe16() << 16) >> 16,
  },
  i32: {
    wire: 'int32',
    bytes: 4,
    zero: 0,
    typed: Int32Array,
    put: (v, o) => o.putBe32(v),
    take: (i) => i.getBe32() | 0,
  },
  u64: {
    wire: 'uint64',
    bytes: 8,
    zero: 0n,
    typed: BigUint64Array,
    put: (v, o) => o.putBe64(v),
    take: (i) => i.getBe64(),
  },
  i64: {
    wire: 'int64',
    bytes: 8,
    zero: 0n,
    typed: BigInt64Array,
    put: (v, o) => o.putBe64(v),
    take: (i) => BigInt.asIntN(64, i.getBe64()),
  },
  u64Number: {
    wire: 'uint64',
    bytes: 8,
    zero: 0,
    put(v, o) {
      if (!Number.isSafeInteger(v) || v < 0) throw outOf53(String(v))
      o.putBe32(Math.floor(v / TWO_32))
      o.putBe32(v % TWO_32)
    },
    take(i) {
      const high = i.getBe32()
      const low = i.getBe32()
      if (high >= 2 ** 21) throw outOf53(`0x${((BigInt(high) << 32n) | BigInt(low)).toString(16)}`)
      return high * TWO_32 + low
    },
  },
  i64Number: {
    wire: 'int64',
    bytes: 8,
    zero: 0,
    put(v, o) {
      if (!Number.isSafeInteger(v)) throw outOf53(String(v))
      const high = Math.floor(v / TWO_32)
      o.putBe32(high)
      o.putBe32(v - high * TWO_32)
    },
    take(i) {
      const high = i.getBe32() | 0
      const value = high * TWO_32 + i.getBe32()
      if (!Number.isSafeInteger(value)) throw outOf53(String(value))
      return value
    },
  },
  // The raw bits: a Number would lose the payload of a NaN.
  cpuDouble: {
    wire: 'CPU_Double_U',
    bytes: 8,
    zero: 0n,
    typed: BigUint64Array,
    put: (v, o) => o.putBe64(v),
    take: (i) => i.getBe64(),
  },
}
